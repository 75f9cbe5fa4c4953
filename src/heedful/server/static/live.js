// Enhancement of pages that change by themselves: what is marked data-live is fetched again, and the title with it.
(() => {
  "use strict";
  const EVERY = 10000, HIDDEN = 30000;
  // The inbox is looked at as long as it is open; a conversation that nobody touches ends its session like any page.
  const IDLE = document.getElementById("rows") ? Infinity : 25 * 60 * 1000;
  const parts = [...document.querySelectorAll("[data-live][id]")];
  if (!parts.length || !window.fetch) return;
  let touched = Date.now();
  for (const kind of ["keydown", "pointerdown"]) addEventListener(kind, () => { touched = Date.now(); });
  const watch = document.getElementById("watch");
  // Where staff monitors, to fetch a conversation is to look at it: not from the background.
  const asleep = () => Date.now() - touched > IDLE || (document.hidden && watch && watch.dataset.path);

  const look = async () => {
    const answer = await fetch(location.pathname + location.search, { headers: { Accept: "text/html" } });
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = page.title;
    // What was waited for is there: the whole page is wanted, unless somebody has typed something in this one.
    const awaited = parts.map((part) => part.dataset.awaits).find((id) => id && page.getElementById(id) && !document.getElementById(id));
    const typed = [...document.querySelectorAll("textarea")].some((box) => box.value !== box.defaultValue);
    if (awaited && !typed) { location.assign(location.pathname + location.search); return; }
    for (const part of parts) {
      const found = page.getElementById(part.id);
      // Nothing is taken from under the hands of whoever is in it; what is the same stays.
      if (!found || part.contains(document.activeElement) || found.innerHTML === part.innerHTML) continue;
      part.replaceChildren(...found.childNodes);
    }
  };
  const next = async () => {
    if (!asleep()) {
      try { await look(); } catch { /* the next time */ }
    }
    setTimeout(next, document.hidden ? HIDDEN : EVERY);
  };
  setTimeout(next, EVERY);
})();
