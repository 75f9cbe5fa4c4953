"""Generation in a process of its own, with a bounded queue, cancellation and time limits.

base.py      Request, Piece, Completion, Ticket and the Engine protocol
frames.py    length + JSON over a socket pair, no pickle
host.py      WorkerEngine: starts the worker, feeds it in fair order, starts it again when it dies
worker.py    the process: loads a back end, answers frames
llama.py, torch_backend.py, remote.py   the back ends
"""
