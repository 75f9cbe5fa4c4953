// Enhancement of the inbox: the rows are fetched again while nobody is moving through them.
(() => {
  "use strict";
  const EVERY = 10000;
  const rows = document.getElementById("rows");
  if (!rows || !window.fetch) return;
  const next = async () => {
    if (!document.hidden && !rows.contains(document.activeElement)) {
      try {
        const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
        if (answer.ok && !answer.redirected) {
          const page = new DOMParser().parseFromString(await answer.text(), "text/html");
          const found = page.getElementById("rows");
          if (found) rows.replaceChildren(...found.childNodes);
        }
      } catch { /* the next time */ }
    }
    setTimeout(next, EVERY);
  };
  setTimeout(next, EVERY);
})();
