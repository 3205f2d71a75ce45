// Label photographs that are chosen, dropped or pasted; move thresholds and see what follows.

const about = JSON.parse(document.getElementById("about").textContent);
const at = (id) => document.getElementById(id);
const thresholds = Float64Array.from(about.thresholds);
const curves = new Map(); // class number -> what /over-thresholds said
const cards = []; // {probabilities, list}
const MOST_BARS = 12;

function made(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

// ---------------------------------------------------------------------- photographs

async function label(file) {
  const card = made("article", "card result");
  const picture = made("img");
  picture.alt = file.name;
  picture.src = URL.createObjectURL(file);
  picture.onload = () => URL.revokeObjectURL(picture.src);
  picture.onerror = () => { // a kind of file that the browser does not show
    URL.revokeObjectURL(picture.src);
    picture.hidden = true;
  };
  const beside = made("div");
  beside.append(made("h3", "", file.name));
  card.append(picture, beside);
  at("results").prepend(card);
  const answer = await fetch("/predict", { method: "POST", body: file });
  const text = await answer.text();
  if (!answer.ok) {
    let why = text;
    try { why = JSON.parse(text).error; } catch { /* it is text already */ }
    beside.append(made("p", "problem", why));
    return;
  }
  const { probabilities } = JSON.parse(text);
  const list = made("ul", "bars");
  beside.append(list);
  cards.push({ probabilities: about.classes.map((name) => probabilities[name]), list });
  show(cards[cards.length - 1]);
}

async function labelAll(files) {
  const photographs = [...files];
  let done = 0;
  for (const file of photographs) {
    at("status").textContent = `${done} of ${photographs.length} labelled`;
    try {
      await label(file);
    } catch {
      at("status").textContent = "grigri-fast serve does not answer: has it ended?";
      return;
    }
    done += 1;
  }
  at("status").textContent = `${done} of ${photographs.length} labelled`;
}

function show({ probabilities, list }) {
  const order = probabilities.map((p, c) => c).sort((a, b) => probabilities[b] - probabilities[a]);
  const shown = order.filter((c, i) => i < MOST_BARS || probabilities[c] >= thresholds[c]);
  list.replaceChildren(...shown.map((c) => {
    const isGiven = probabilities[c] >= thresholds[c];
    const row = made("li", isGiven ? "given" : "");
    const track = made("div", "track"), fill = made("div", "fill"), mark = made("div", "mark");
    fill.style.width = `${100 * probabilities[c]}%`;
    mark.style.left = `${100 * thresholds[c]}%`;
    track.append(fill, mark);
    const name = made("span", "name", about.classes[c]);
    name.title = about.classes[c];
    const value = made("span", "value", probabilities[c].toFixed(3));
    row.append(name, track, value);
    row.setAttribute("aria-label",
      `${about.classes[c]}: ${probabilities[c].toFixed(3)}, ${isGiven ? "given" : "not given"}`);
    return row;
  }));
}

at("files").addEventListener("change", (event) => {
  labelAll(event.target.files);
  event.target.value = "";
});
for (const kind of ["dragenter", "dragover"]) {
  at("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) {
  at("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
  });
}
at("drop").addEventListener("drop", (event) => labelAll(event.dataTransfer.files));
addEventListener("paste", (event) => labelAll(event.clipboardData.files));

// ----------------------------------------------------------------------- thresholds

const chosen = () => Number(at("class").value);

async function showScores() {
  const c = chosen(), threshold = thresholds[c];
  at("threshold").value = threshold;
  at("threshold-value").textContent = threshold.toFixed(3);
  if (!curves.has(c)) {
    const answer = await fetch(`/over-thresholds/${c}`);
    if (!answer.ok) return;
    curves.set(c, await answer.json());
    if (c !== chosen()) return;
  }
  const curve = curves.get(c);
  let i = curve.thresholds.findIndex((t) => t >= threshold - 1e-9);
  if (i < 0) i = curve.thresholds.length - 1;
  const p = curve.precision[i], r = curve.recall[i];
  at("precision").textContent = p.toFixed(3);
  at("recall").textContent = r.toFixed(3);
  at("f1").textContent = (p + r > 0 ? (2 * p * r) / (p + r) : 0).toFixed(3);
  at("support").textContent =
    `On ${curve.num_images} photographs of the validation part, ${curve.num_with_label} with this label.`;
}

about.classes.forEach((name, c) => {
  const option = made("option", "", name);
  option.value = c;
  at("class").append(option);
});
at("class").addEventListener("change", showScores);
at("threshold").addEventListener("input", (event) => {
  thresholds[chosen()] = Number(event.target.value);
  showScores();
  cards.forEach(show);
});
at("reset").addEventListener("click", () => {
  thresholds[chosen()] = about.thresholds[chosen()];
  showScores();
  cards.forEach(show);
});
showScores();
