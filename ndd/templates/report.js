"use strict";
(() => {
  const root = document.documentElement;
  const store = {
    // A browser may refuse storage to a page opened from a file.
    get(key) { try { return localStorage.getItem(key); } catch { return null; } },
    set(key, value) { try { localStorage.setItem(key, value); } catch { /* the choice lasts for this page */ } },
  };
  const saved = store.get("ndd-theme");
  if (saved === "light" || saved === "dark") root.dataset.theme = saved;

  function switchTheme() {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    store.set("ndd-theme", root.dataset.theme);
  }

  document.addEventListener("DOMContentLoaded", () => {
    const one = (id) => document.getElementById(id);
    const search = one("search"), sort = one("sort"), count = one("count"), nothing = one("nothing"), list = one("cards");
    const filters = [...document.querySelectorAll(".filter")];
    const cards = list ? [...list.children] : [];
    const paths = new Map();

    one("theme").addEventListener("click", switchTheme);
    addEventListener("keydown", keys);
    if (!list) return;

    search.addEventListener("input", apply);
    sort.addEventListener("change", order);
    one("reset").addEventListener("click", reset);
    for (const button of filters) {
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
        apply();
      });
    }
    apply();

    function pathsOf(card) {
      if (!paths.has(card)) {
        paths.set(card, [...card.querySelectorAll(".path")].map((path) => path.textContent.toLowerCase()));
      }
      return paths.get(card);
    }

    function apply() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const wanted = filters.filter((f) => f.getAttribute("aria-pressed") === "true").map((f) => f.dataset.relation);
      let shown = 0;
      for (const card of cards) {
        const relations = card.dataset.relations.split(" ");
        const fits = (!wanted.length || wanted.some((relation) => relations.includes(relation)))
          && (!words.length || pathsOf(card).some((path) => words.every((word) => path.includes(word))));
        card.hidden = !fits;
        shown += fits;
      }
      nothing.hidden = shown > 0;
      count.value = shown === cards.length ? `${shown} ${shown === 1 ? "group" : "groups"}` : `${shown} of ${cards.length} groups`;
    }

    function order() {
      const key = sort.value, sign = key === "number" || key === "least" ? 1 : -1;
      const sorted = [...cards].sort((a, b) => sign * (a.dataset[key] - b.dataset[key]) || a.dataset.number - b.dataset.number);
      list.append(...sorted);
    }

    function reset() {
      search.value = "";
      for (const button of filters) button.setAttribute("aria-pressed", "false");
      apply();
      search.focus();
    }

    function step(by) {
      const visible = [...list.children].filter((card) => !card.hidden);
      const at = visible.indexOf(document.activeElement?.closest(".card"));
      const next = visible[at < 0 ? (by > 0 ? 0 : visible.length - 1) : Math.min(visible.length - 1, Math.max(0, at + by))];
      if (!next) return;
      next.focus({ preventScroll: true });
      const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
      next.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
    }

    function keys(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape" && event.target === search) { reset(); search.blur(); return; }
      if (event.target.closest?.("input, select, textarea")) return;
      if (event.key === "t") switchTheme();
      else if (list && event.key === "j") step(1);
      else if (list && event.key === "k") step(-1);
      else if (list && event.key === "/") { event.preventDefault(); search.focus(); search.select(); }
    }
  });
})();
