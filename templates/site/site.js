"use strict";
// Filters the table of cells. The rows that are not in the page are in rows/N.js, which is loaded when it is needed: by
// a script element, since pages that are opened from a disk may not fetch files.
(() => {
  const form = document.getElementById("filters");
  const body = document.getElementById("rows");
  const more = document.getElementById("more");
  const files = Number(document.body.dataset.files);
  const total = Number(document.body.dataset.total);
  const waiting = new Map();
  let loaded = 0;

  window.flagreleaseRows = (number, html) => {
    body.insertAdjacentHTML("beforeend", html); // escaped when it was written
    loaded = number + 1;
    waiting.get(number)();
  };

  async function load(upTo) {
    while (loaded < upTo) {
      const number = loaded;
      await new Promise((resolve, reject) => {
        waiting.set(number, resolve);
        const script = document.createElement("script");
        script.src = `rows/${number}.js`;
        script.onerror = () => reject(new Error(`rows/${number}.js is missing`));
        document.head.append(script);
      });
    }
  }

  function wanted() {
    const data = new FormData(form);
    return {
      states: data.getAll("state"),
      chip: data.get("chip"),
      model: data.get("model"),
      words: data.get("q").toLowerCase().split(/\s+/).filter(Boolean),
    };
  }

  function matches(row, want) {
    const { s, c, m } = row.dataset;
    if (want.states.length && !want.states.includes(s)) return false;
    if ((want.chip && want.chip !== c) || (want.model && want.model !== m)) return false;
    if (!want.words.length) return true;
    const text = row.textContent.toLowerCase();
    return want.words.every((word) => text.includes(word));
  }

  function show(want) {
    let visible = 0;
    for (const row of body.rows) {
      row.hidden = !matches(row, want);
      visible += row.hidden ? 0 : 1;
    }
    document.getElementById("none").hidden = visible > 0;
    document.getElementById("shown").textContent =
      visible === total ? "" : `${visible} of ${total} cells are shown`;
    more.hidden = loaded >= files;
  }

  async function update(keep) {
    const want = wanted();
    if (!keep) {
      const link = new URLSearchParams();
      for (const state of want.states) link.append("state", state);
      for (const name of ["chip", "model", "q"]) if (form.elements[name].value) link.set(name, form.elements[name].value);
      history.replaceState(null, "", link.size ? `#${link}` : location.pathname + location.search);
    }
    show(want);
    if (want.states.length || want.chip || want.model || want.words.length) {
      await load(files); // a filter is about all cells
      show(wanted());
    }
  }

  function fromLink() {
    const link = new URLSearchParams(location.hash.slice(1));
    for (const box of form.querySelectorAll("[name=state]")) box.checked = link.getAll("state").includes(box.value);
    for (const name of ["chip", "model", "q"]) form.elements[name].value = link.get(name) ?? "";
    update(true);
  }

  form.addEventListener("input", () => update(false));
  form.addEventListener("reset", () => setTimeout(() => update(false)));
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => load(loaded + 1).then(() => show(wanted())));
  window.addEventListener("hashchange", fromLink);
  document.querySelector(".plain").hidden = true;
  form.hidden = false;
  fromLink();
})();
