// The demo's page. What people write and what the model says is put on the page as text (textContent), never as HTML.
"use strict";

const at = (id) => document.getElementById(id);
const percent = (share) => (100 * share).toFixed(share < 0.0995 ? 1 : 0) + "%";

function make(tag, settings = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (name === "text") node.textContent = value;
    else if (name === "class") node.className = value;
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (name === "click") node.addEventListener("click", value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

async function ask(path, question) {
  const request = question === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question) };
  let answer;
  try {
    answer = await fetch(path, request);
  } catch {
    throw new Error("bert-jax demo does not answer any more; is it still running?");
  }
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}

// One form: asks, says that it waits, shows the answer or what is wrong. Of several questions the last one's answer counts.
function serve(section, question, path, show) {
  const form = at(section).querySelector("form"), status = form.querySelector(".status"), submit = form.querySelector("[type=submit]"), result = at(section).querySelector(".result");
  let last = 0;
  const run = async (event) => {
    event?.preventDefault();
    const mine = ++last;
    submit.disabled = true;
    status.className = "status";
    const patience = setTimeout(() => { status.textContent = "The model works; a new length takes it longest …"; }, 400);
    try {
      const asked = question(), answer = await ask(path, asked);
      if (mine !== last) return;
      status.textContent = "";
      show(answer, asked);
      result.hidden = false;
    } catch (error) {
      if (mine !== last) return;
      status.textContent = error.message;
      status.className = "status wrong";
      result.hidden = true; // it answers another question
    } finally {
      clearTimeout(patience);
      if (mine === last) submit.disabled = false;
    }
  };
  form.addEventListener("submit", run);
  for (const box of form.querySelectorAll("textarea")) {
    box.addEventListener("keydown", (event) => {
      const sends = event.key === "Enter" && !event.isComposing && (event.ctrlKey || event.metaKey || (section !== "compare" && !event.shiftKey));
      if (sends) { event.preventDefault(); form.requestSubmit(); }
    });
  }
  return run;
}

// Of a group of buttons one is a stop of the Tab key; arrows lead to the others. columns: in a row, where rows matter.
function walk(group, selector, columns = 1) {
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  group.addEventListener("keydown", (event) => {
    const buttons = [...group.querySelectorAll(selector)], from = buttons.indexOf(document.activeElement);
    if (from < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const to = buttons[from + steps[event.key]];
    if (!to) return;
    to.focus();
    to.click();
  });
}

function press(buttons, chosen) {
  for (const button of buttons) {
    button.setAttribute("aria-pressed", button === chosen);
    button.tabIndex = button === chosen ? 0 : -1;
  }
}

// Small shares can be seen too: the colour is the root of the share. The scale below the tokens shows what means what.
const heat = (share) => `${100 * Math.sqrt(share)}%`;

function bar(name, share, settings = {}) {
  const parts = [
    make("span", { class: "token", text: name, title: name }),
    make("span", { class: "track", "--share": `${100 * share}%` }, make("i")),
    make("span", { class: "share", text: percent(share) }),
  ];
  return make("li", {}, make(settings.click ? "button" : "div", { class: "bar", ...(settings.click ? { type: "button", "aria-pressed": false } : {}), ...settings }, ...parts));
}

function fillMask(model) {
  const box = at("fill-text"), result = at("predictions");
  for (const code of document.querySelectorAll(".mask-token")) code.textContent = model.mask;
  box.value = `The capital of France is ${model.mask}.`;
  at("insert-mask").addEventListener("click", () => {
    box.setRangeText(model.mask, box.selectionStart, box.selectionEnd, "end");
    box.focus();
  });
  serve("fill_mask", () => ({ text: box.value }), "/api/fill-mask", (answer, asked) => {
    const pieces = asked.text.split(answer.mask), chosen = answer.masks.map(() => null);
    const write = () => {
      box.value = pieces.slice(1).reduce((text, piece, index) => {
        const token = chosen[index];
        if (token === null) return text + answer.mask + piece;
        return (token.continues ? text.replace(/ +$/, "") : text) + token.text + piece;
      }, pieces[0]);
    };
    const lists = answer.masks.map((predictions, index) => {
      const list = make("ul", { class: "bars" });
      for (const one of predictions) {
        list.append(bar(one.token, one.probability, { click: (event) => {
          chosen[index] = chosen[index] === one ? null : one;
          for (const button of list.querySelectorAll("button")) button.setAttribute("aria-pressed", button === event.currentTarget && chosen[index] === one);
          write();
        } }));
      }
      const title = answer.masks.length > 1 ? `Mask ${index + 1}` : "Predictions";
      return make("div", {}, make("h3", { text: title }), list);
    });
    result.replaceChildren(make("div", { class: answer.masks.length > 1 ? "masks" : "masks one" }, ...lists));
  });
}

function token(one, tag, settings = {}) {
  const kind = ["piece", one.special ? "special" : "", one.continues && !one.special ? "continues" : ""].join(" ");
  return make(tag, { class: kind, ...settings }, make("span", { class: "text", text: one.text.trim() || "␣" }), make("span", { class: "share", text: "–" }));
}

function mark(piece, share, heated) {
  piece.style.setProperty("--heated", heated);
  piece.querySelector(".share").textContent = percent(share);
}

function replaced() {
  serve("replaced", () => ({ text: at("replaced-text").value }), "/api/replaced", (answer) => {
    const tokens = answer.tokens.map((one) => {
      const piece = token(one, "span");
      if (!one.special) mark(piece, one.probability, `${100 * one.probability}%`); // of separators nothing was learnt
      return piece;
    });
    at("judged").replaceChildren(make("div", { class: "tokens" }, ...tokens));
  });
}

function classify(model) {
  at("classify").querySelector(".second").hidden = model.pairs === null;
  if (model.pairs === "optional") at("classify").querySelector(".second label").textContent = "Second text, if the model was fine-tuned on pairs";
  serve("classify", () => ({ text: at("classify-text").value, pair: at("classify-pair").value }), "/api/classify", (answer) => {
    const shown = "score" in answer ? make("p", { class: "score", text: answer.score.toFixed(3) })
      : make("div", { class: "masks one classes" }, make("ul", { class: "bars" }, ...answer.classes.map((one) => bar(one.name, one.probability))));
    at("classes").replaceChildren(shown);
  });
}

function attention(model) {
  const layer = at("layer"), head = at("head"), tokens = at("tokens"), grid = at("grid"), columns = model.heads;
  let chosen = null, shown = "";
  for (let number = 1; number <= model.layers; number++) layer.append(make("option", { text: number, value: number }));
  head.append(make("option", { text: "mean of all", value: "" }));
  for (let number = 1; number <= model.heads; number++) head.append(make("option", { text: number, value: number }));
  at("scale").append(...[0, 0.01, 0.05, 0.25, 1].map((share) => make("span", {}, make("i", { "--heated": heat(share) }), percent(share).replace(".0%", "%"))));

  const number = (text) => make("span", { text, "aria-hidden": true });
  grid.style.setProperty("--heads", columns);
  grid.append(number(""), ...Array.from({ length: columns }, (_, index) => number(columns <= 16 ? index + 1 : "")));
  const cells = [];
  for (let row = 1; row <= model.layers; row++) {
    grid.append(number(row));
    for (let column = 1; column <= columns; column++) {
      const cell = make("button", { type: "button", class: "cell", tabindex: -1, click: () => { layer.value = row; head.value = column; run(); } });
      cells.push(cell);
      grid.append(cell);
    }
  }
  walk(grid, ".cell", columns);
  walk(tokens, ".piece");

  const question = () => ({
    text: at("attention-text").value, pair: at("attention-pair").value, layer: Number(layer.value), head: head.value === "" ? null : Number(head.value),
  });
  const run = serve("attention", question, "/api/attention", (answer, asked) => {
    const text = JSON.stringify([asked.text, asked.pair]);
    if (text !== shown || chosen >= answer.tokens.length) chosen = answer.tokens.findIndex((one) => !one.special);
    const isFirst = text !== shown, hadFocus = tokens.contains(document.activeElement);
    if (chosen < 0) chosen = 0;
    shown = text;
    const pieces = answer.tokens.map((one, index) => token(one, "button", { type: "button", click: () => colour(index) }));
    tokens.replaceChildren(...pieces);
    cells.forEach((cell, index) => {
      const row = Math.floor(index / columns), focus = answer.focus[row][index % columns];
      cell.style.setProperty("--heated", `${100 * focus}%`);
      cell.setAttribute("aria-label", `layer ${row + 1}, head ${(index % columns) + 1}: ${percent(focus)} on one token`);
      cell.title = cell.getAttribute("aria-label");
    });
    const current = asked.head === null ? null : cells[(asked.layer - 1) * columns + asked.head - 1];
    press(cells, current);
    if (current === null) cells[(asked.layer - 1) * columns].tabIndex = 0;
    const colour = (index) => {
      chosen = index;
      press(pieces, pieces[index]);
      answer.weights[index].forEach((share, other) => mark(pieces[other], share, heat(share)));
      const best = answer.weights[index].map((share, other) => [share, other]).sort((one, other) => other[0] - one[0]).slice(0, 3);
      const words = best.map(([share, other]) => `“${answer.tokens[other].text.trim()}” ${percent(share)}`);
      const where = asked.head === null ? `layer ${asked.layer}, mean of all heads` : `layer ${asked.layer}, head ${asked.head}`;
      at("attended-summary").textContent = `“${answer.tokens[index].text.trim()}” attends most to ${words.join(", ")} (${where}).`;
    };
    colour(chosen);
    if (!isFirst && hadFocus) pieces[chosen].focus();
  });
  layer.addEventListener("change", run);
  head.addEventListener("change", run);
}

function compare(model) {
  const meanings = { mean: "the mean of their tokens' vectors", cls: "the first token's", max: "the largest values of their tokens' vectors" };
  at("pooling").textContent = meanings[model.pooling];
  at("pretrained-only").hidden = model.embeds;
  serve("compare", () => ({ lines: at("compare-lines").value.split("\n").filter((line) => line.trim()) }), "/api/compare", (answer) => {
    const count = answer.lines.length, [first, second] = answer.nearest;
    const others = answer.cosines.flatMap((row, index) => row.filter((_, other) => other !== index));
    const least = Math.min(...others), most = Math.max(...others), spread = most - least || 1;
    const head = make("tr", {}, make("td"), ...answer.lines.map((_, index) => make("th", { scope: "col", text: index + 1 })));
    const rows = answer.lines.map((line, index) => {
      const name = make("th", { scope: "row", title: line }, make("b", { text: index + 1 }), make("span", { class: "line", text: line }));
      const cells = answer.cosines[index].map((cosine, other) => {
        const isBest = (index === first && other === second) || (index === second && other === first);
        return make("td", { class: index === other ? "self" : isBest ? "best" : "", text: cosine.toFixed(2), "--heated": `${(100 * (cosine - least)) / spread}%` });
      });
      return make("tr", {}, name, ...cells);
    });
    const best = make("p", { class: "nearest" }, "Nearest: ", make("b", { text: `${first + 1} and ${second + 1}` }), ` (${answer.cosines[first][second].toFixed(3)}): `,
      make("span", { text: `“${answer.lines[first]}” and “${answer.lines[second]}”` }));
    const table = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Cosine similarities" },
      make("table", { class: "matrix" }, make("thead", {}, head), make("tbody", {}, ...rows)));
    const legend = make("p", { class: "scale", text: count > 2 ? `Colours go from the lowest similarity here, ${least.toFixed(2)}, to the highest, ${most.toFixed(2)}.` : "" });
    const cut = answer.cut ? [make("p", { class: "alert", text: `${answer.cut} of the lines have more than ${answer.length} tokens and were cut.` })] : [];
    at("similarities").replaceChildren(best, table, legend, ...cut);
  });
}

async function start() {
  const model = await ask("/api/model");
  document.title = `${model.name}: bert-jax demo`;
  at("name").textContent = model.name;
  at("facts").append(...model.facts.map(([name, value]) => make("span", {}, `${name} `, make("b", { text: value }))));
  const starts = { fill_mask: fillMask, replaced, classify, attention, compare };
  for (const [part, begin] of Object.entries(starts)) {
    if (!(part in model.parts)) continue;
    const section = at(part), reason = model.parts[part];
    section.hidden = false;
    if (reason === null) begin(model);
    else {
      section.querySelector("form").remove();
      document.querySelector("footer").before(section); // behind what there is
      section.querySelector(".intro").replaceWith(make("p", { class: "intro missing", text: reason }));
    }
  }
  for (const box of document.querySelectorAll("textarea:not(#compare-lines)")) box.maxLength = model.longest_text;
}

start().catch((error) => {
  at("trouble").textContent = error.message;
  at("trouble").hidden = false;
});
