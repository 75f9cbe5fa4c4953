// Enhancement of /talk: sends without loading the page, and looks for news. Without it every form works by itself.
(() => {
  "use strict";
  const list = document.getElementById("turns");
  const form = document.getElementById("write");
  const status = document.getElementById("status");
  const notices = document.getElementById("notices");
  if (!list || !form || !window.fetch) return;
  const words = list.dataset;
  const box = form.elements.text;
  const csrf = form.elements.csrf.value;
  const EVERY = 4000, HIDDEN = 20000, IDLE = 25 * 60 * 1000;
  let last = Number(words.last), busy = false, wanted = false, touched = Date.now(), word = status.dataset.word;

  const fresh = () => "page-" + (crypto.randomUUID ? crypto.randomUUID() : Date.now() + "-" + Math.random().toString(36).slice(2));
  let id = fresh();

  const element = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text) made.textContent = text;
    return made;
  };

  function bubble(turn) {
    const item = element("li", turn.who), who = element("p", "who"), said = element("p", "words", turn.text);
    said.dir = "auto";
    who.append(element("b", "", turn.name), " ", element("time", "", turn.at));
    item.append(who, said);
    if (turn.sequence) item.dataset.sequence = turn.sequence;
    list.append(item);
    return item;
  }

  async function look() {
    if (busy) return;
    busy = true;
    try {
      const answer = await fetch("/api/talk/turns?after=" + last, { headers: { Accept: "application/json" } });
      if (answer.status === 401 || answer.status === 403) { location.reload(); return; }
      if (!answer.ok) return;
      const news = await answer.json();
      if (news.interrupt) { location.assign("/talk"); return; }
      for (const turn of news.turns) {
        if (turn.sequence > last) { bubble(turn); last = turn.sequence; }
      }
      for (const text of news.notices) notices.append(element("p", "notice", text));
      // The card of crisis lines: the server knows how it looks. What somebody is typing is not taken from them.
      wanted = news.resources && !document.getElementById("card");
      if (wanted && !box.value) { location.assign("/talk"); return; }
      if (news.word !== word || status.textContent !== news.text) {
        status.className = "status " + news.word;
        status.textContent = news.text;
        word = news.word;
      }
    } catch { /* the network is away for a moment; the next look tells */ }
    finally { busy = false; }
  }

  async function send(event) {
    event.preventDefault();
    const text = box.value;
    if (!text.trim()) { box.focus(); return; }
    const button = form.querySelector("button");
    button.disabled = true;
    status.textContent = words.sending;
    try {
      const answer = await fetch("/api/talk/turns", {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
        // The same id until it is acknowledged: sent twice, it is one message.
        body: JSON.stringify({ client_id: id, text }),
      });
      if (answer.ok) { box.value = ""; id = fresh(); status.textContent = ""; await look(); }
      else {
        // Maybe it was kept all the same: the form sends the same id.
        form.elements.client_id.value = id;
        form.removeEventListener("submit", send);
        form.submit();
      }
    } catch { status.textContent = words.failed + " " + words.again; }
    finally { button.disabled = false; box.focus(); }
  }

  form.addEventListener("submit", send);
  box.addEventListener("input", () => { if (wanted && !box.value) location.assign("/talk"); });
  for (const kind of ["keydown", "pointerdown"]) addEventListener(kind, () => { touched = Date.now(); });
  let paused = false;
  const next = () => {
    if (Date.now() - touched > IDLE) {
      // On a shared computer a page that looks for ever would keep the session open for ever.
      if (!paused) { status.textContent = words.paused; paused = true; }
    } else look();
    setTimeout(next, document.hidden ? HIDDEN : EVERY);
  };
  setTimeout(next, EVERY);
})();
