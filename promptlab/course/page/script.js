// The theme and the search of the course's site. search.js has set SECTIONS: [page, anchor, lesson, heading, text], one for each heading.
(() => {
  const root = document.documentElement;
  const theme = document.querySelector("#theme");
  const box = document.querySelector("#search");
  const found = document.querySelector("#found");
  const most = 20;

  function wear(name) {
    root.dataset.theme = name;
    theme.textContent = name === "dark" ? "Light" : "Dark"; // what a click gives
  }
  wear(root.dataset.theme);
  theme.addEventListener("click", () => {
    wear(root.dataset.theme === "dark" ? "light" : "dark");
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a browser may keep nothing for files */ }
  });

  // Every word must occur; a word in the heading counts ten times one in the text, and more mentions count more.
  function score(words, heading, text) {
    let sum = 0;
    for (const word of words) {
      const above = heading.includes(word), times = text.split(word).length - 1;
      if (!above && !times) return 0;
      sum += (above ? 10 : 0) + Math.min(times, 5);
    }
    return sum;
  }

  // The words around the first hit, hits marked; built from text nodes, so that nothing in a lesson is taken for markup.
  function snippet(words, text) {
    const low = text.toLowerCase();
    const at = Math.min(...words.map((word) => low.indexOf(word)).filter((i) => i >= 0), text.length);
    const from = at < 60 ? 0 : text.indexOf(" ", at - 60) + 1, cut = text.slice(from, from + 180);
    const small = document.createElement("small");
    const escaped = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    for (const part of cut.split(new RegExp(`(${escaped.join("|")})`, "i"))) {
      const node = words.includes(part.toLowerCase()) ? document.createElement("mark") : document.createElement("span");
      node.textContent = part;
      small.append(node);
    }
    return small;
  }

  function search() {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    found.hidden = !words.length;
    if (!words.length) return;
    const hits = SECTIONS.map((section) => [score(words, `${section[2]} ${section[3]}`.toLowerCase(), section[4].toLowerCase()), section])
      .filter(([points]) => points).sort((a, b) => b[0] - a[0]);
    const said = document.createElement("p");
    said.textContent = hits.length > most ? `${hits.length} sections; the first ${most}:` : hits.length === 1 ? "1 section" : `${hits.length} sections`;
    found.replaceChildren(said, ...hits.slice(0, most).map(([, [page, anchor, lesson, heading, text]]) => {
      const link = document.createElement("a"), title = document.createElement("b");
      link.href = `${page}#${encodeURIComponent(anchor)}`;
      title.textContent = heading === lesson ? lesson : `${lesson} \u203a ${heading}`;
      link.append(title, snippet(words, text));
      return link;
    }));
  }

  box.hidden = false;
  box.addEventListener("input", search);
  found.addEventListener("click", (event) => { if (event.target.closest("a")) found.hidden = true; }); // the hit may be on this page
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== box && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      box.focus();
    } else if (event.key === "Escape") {
      found.hidden = true;
    }
  });

  // A link may lead into a folded answer.
  function unfold() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  }
  addEventListener("hashchange", unfold);
  unfold();
})();
