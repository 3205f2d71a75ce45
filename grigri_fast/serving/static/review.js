// One label after the other: yes, no, cannot tell, skip, undo, add. The server keeps the decisions.

const about = JSON.parse(document.getElementById("about").textContent);
const at = (id) => document.getElementById(id);
const AHEAD = 4; // photographs that are loaded before they are shown
const ALL = -1; // in the place of a class: all labels of a photograph that has none yet
// [row, c, probability or null, what the data say, name] of the chosen kind and class; of two that
// show nearly the same also [..., row, what the data say, name] of the other one; of a photograph
// without labels [row, ALL, why it was chosen, "", name].
let questions = [];
let decided = new Map(); // "row,c" -> value
let skipped = new Set();
const picked = new Map(); // row of a photograph without labels -> Map of c -> whether it has it
let place = 0;
let state = { num_changed: 0, num_added: 0, can_undo: false, file: "" };
let busy = false;
let choice = 0; // number of the last one

const key = ([row, c]) => `${row},${c}`;
const current = () => questions[place];

async function asked(address, body) {
  const how = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(address, how);
  } catch {
    throw new Error("grigri-fast serve does not answer: has it ended?");
  }
  if (!answer.ok) {
    const text = await answer.text();
    let why = text;
    try { why = JSON.parse(text).error; } catch { /* it is text already */ }
    throw Object.assign(new Error(why), { status: answer.status });
  }
  return answer.json();
}

// Take what the server says of decisions: all that there are, or those that are new.
function take(newState, isAll) {
  state = newState;
  if (isAll) decided = new Map();
  for (const [row, c, value] of state.decisions) {
    if (value === "given") decided.delete(`${row},${c}`);
    else decided.set(`${row},${c}`, value);
  }
}

// ------------------------------------------------------------------------- what is shown

function nextOpen(from) {
  let i = from;
  while (i < questions.length && (decided.has(key(questions[i])) || skipped.has(key(questions[i])))) {
    i += 1;
  }
  return i;
}

const many = (num, what) => `${num} ${what}${num === 1 ? "" : "s"}`;

function show() {
  const total = questions.length;
  const done = questions.filter((q) => decided.has(key(q))).length;
  at("progress").textContent = at("kind").value === "suggestions"
    ? `${done} of ${total} labelled`
    : `${done} of ${total} decided, ${many(state.num_changed, "label")} changed`;
  at("file").textContent = state.file;
  at("undo").disabled = !state.can_undo;
  const isOver = place >= total;
  at("review").hidden = isOver;
  at("done").hidden = !isOver;
  if (isOver) {
    const rest = questions.filter((q) => skipped.has(key(q)) && !decided.has(key(q))).length;
    at("done").textContent = total === 0
      ? "There is nothing of this kind."
      : `That was the last one; ${rest} skipped. Choose other questions above, or reload to see what was skipped.`;
    return;
  }
  const [row, c, , , file, twin, , fileTwin] = current();
  const isPair = twin !== undefined, isWhole = c === ALL;
  [at("question").textContent, at("evidence").textContent] = isWhole ? ofWhole() : ofLabel();
  at("problem").textContent = "";
  at("yes").hidden = at("no").hidden = at("unknown").hidden = isWhole;
  at("labelled").hidden = !isWhole;
  at("twin").hidden = at("both").hidden = !isPair;
  at("pair").classList.toggle("pair", isPair);
  at("more").hidden = isPair; // labels are added to one photograph, and here are two
  const alt = isWhole ? "" : `; is it ${about.classes[c]}?`;
  showPhoto("", row, file, alt);
  if (isPair) showPhoto("-twin", twin, fileTwin, alt);
  else if (isWhole) showPicked(row);
  else showLabels(row);
  for (const [next, , , , , other] of questions.slice(place + 1, place + 1 + AHEAD)) {
    for (const one of [next, other]) if (one !== undefined) new Image().src = `/photo/${one}`;
  }
}

// The question about a label, and what is known of it.
function ofLabel() {
  const [, c, probability, given, , twin, givenTwin] = current();
  const name = about.classes[c], isPair = twin !== undefined;
  const word = (value) => (value === "1" ? "yes" : "no");
  const said = isPair
    ? `These two are nearly the same. The data say ${word(given)} of the first, ${word(givenTwin)} of the second`
    : `The data say ${word(given)}`;
  const model = probability === null ? "" : `, the model ${percent(probability)}${isPair ? " of the first" : ""}`;
  return [isPair ? `Do they show ${name}?` : `Does it show ${name}?`, `${said}${model}.`];
}

// The question about all labels of a photograph, and why it was chosen.
function ofWhole() {
  const why = current()[2];
  return ["Which labels does it have?", `${why.charAt(0).toUpperCase()}${why.slice(1)}. The model's labels are marked.`];
}

const percent = (p) => `${(100 * p).toFixed(p < 0.1 || p > 0.9 ? 1 : 0)} %`;

function showPhoto(which, row, file, alt) {
  const photo = at(`photo${which}`), missing = at(`missing${which}`);
  const address = `/photo/${row}`;
  at(`name${which}`).textContent = file;
  photo.alt = `${file}${alt}`;
  if (photo.getAttribute("src") === address) return;
  photo.hidden = false;
  missing.hidden = true;
  photo.onerror = async () => {
    photo.hidden = true;
    missing.hidden = false;
    try {
      await asked(address);
    } catch (error) {
      missing.textContent = error.message;
    }
  };
  photo.src = address;
}

async function showLabels(row) {
  const labels = await asked(`/labels/${row}`).catch(() => []);
  if (!current() || current()[0] !== row) return;
  at("labels").replaceChildren(...labels.map(({ c, name, value, is_changed }) => {
    const item = document.createElement("li"), button = document.createElement("button");
    const isOn = value === "1";
    button.type = "button";
    button.textContent = value === "unknown" ? `${name}?` : name;
    button.className = `${isOn ? "" : "removed"} ${is_changed ? "changed" : ""}`;
    button.setAttribute("aria-pressed", isOn);
    button.title = isOn ? "Remove this label" : "Add this label";
    button.addEventListener("click", () => decide([{ row, c, value: isOn ? "0" : "1" }], false));
    item.append(button);
    return item;
  }));
}

// The labels to choose from, the likeliest first; those of the model, or of before, are chosen.
async function showPicked(row) {
  const offered = await asked(`/labels/${row}`).catch((error) => {
    at("problem").textContent = error.message;
    return [];
  });
  if (!current() || current()[0] !== row || !offered.length) return;
  if (!picked.has(row)) picked.set(row, new Map(offered.map(({ c, value }) => [c, value === "1"])));
  const probabilities = new Map(offered.map(({ c, probability }) => [c, probability]));
  at("labels").replaceChildren(...[...picked.get(row)].map(([c, isOn], place) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.className = "choice";
    button.append(about.classes[c]);
    if (probabilities.has(c)) {
      const small = document.createElement("small");
      small.textContent = ` ${percent(probabilities.get(c))}`;
      button.append(small);
    }
    if (place < 9) {
      const letter = document.createElement("kbd");
      letter.textContent = place + 1;
      button.append(" ", letter);
      button.setAttribute("aria-keyshortcuts", place + 1);
    }
    button.setAttribute("aria-pressed", isOn);
    button.addEventListener("click", () => pick(c));
    item.append(button);
    return item;
  }));
}

// Turn a label of the photograph that is being labelled on or off.
function pick(c, isOn) {
  const chosen = picked.get(current()[0]);
  if (!chosen) return; // they are not there yet
  const place = [...chosen.keys()].indexOf(c);
  const value = isOn ?? !chosen.get(c);
  chosen.set(c, value);
  const button = at("labels").querySelectorAll("button")[place];
  if (button) button.setAttribute("aria-pressed", value);
  else showPicked(current()[0]); // it was typed
}

// ------------------------------------------------------------------------------ decisions

async function guarded(work) {
  if (busy) return; // a key that is held down decides once
  busy = true;
  try {
    await work();
  } catch (error) {
    at("problem").textContent = error.message;
  } finally {
    busy = false;
  }
}

function decide(decisions, goOn) {
  return written("/review/decide", decisions, goOn ? decisions : []);
}

// Send what somebody says; go on from the questions that it answers.
function written(address, body, answered) {
  return guarded(async () => {
    try {
      take(await asked(address, body));
    } catch (error) {
      if (error.status !== 409) throw error;
      take(await asked("/review/state"), true); // another tab was faster: go on after its answer
      place = nextOpen(place);
      show();
      throw error;
    }
    if (answered.length) {
      for (const one of answered) skipped.delete(key([one.row, one.c]));
      place = nextOpen(place);
    }
    show();
  });
}

const before = (row, c) => decided.get(key([row, c])) ?? "given";

// Say something of the photographs in question; of two, of the one that the question counts for last.
function say(value, ofTwin) {
  const [row, c, , , , twin] = current();
  if (c === ALL) return; // yes or no is no answer
  const decisions = twin === undefined ? [] : [{ row: twin, c, value: ofTwin, before: before(twin, c) }];
  decisions.push({ row, c, value, before: before(row, c) });
  return decide(decisions, true);
}

const answer = (value) => {
  if (current()) say(value, value);
};

function both() { // both are right as the data have them
  if (current() && current()[5] !== undefined) say(current()[3], current()[6]);
}

function labelled() { // all labels of a photograph are as they are marked
  if (!current() || current()[1] !== ALL || !picked.has(current()[0])) return;
  const row = current()[0];
  const has = [...picked.get(row)].filter(([, isOn]) => isOn).map(([c]) => c);
  written("/review/label", { row, has }, [{ row, c: ALL }]);
}

function skip() {
  if (!current() || busy) return;
  skipped.add(key(current()));
  place = nextOpen(place);
  show();
}

function undo() {
  return guarded(async () => {
    const said = await asked("/review/undo", {});
    take(said);
    const undone = said.decisions.map(([row, c]) => `${row},${c}`);
    const back = questions.findIndex((q) => undone.includes(key(q)));
    if (back >= 0) place = back;
    show();
  });
}

function add(event) {
  event.preventDefault();
  const wanted = at("label").value.trim();
  if (!wanted || !current() || current()[5] !== undefined) return;
  const c = about.classes.findIndex((name) => name.toLowerCase() === wanted.toLowerCase());
  if (c < 0) {
    at("problem").textContent = `There is no class ${wanted}.`;
    return;
  }
  at("label").value = "";
  at("label").blur();
  at("problem").textContent = "";
  if (current()[1] === ALL) pick(c, true);
  else decide([{ row: current()[0], c, value: "1" }], c === current()[1]);
}

// ------------------------------------------------------------------------------- choices

async function choose() {
  const kind = at("kind").value, only = at("only").value;
  const mine = (choice += 1);
  questions = []; // a key that comes too early answers nothing
  at("review").hidden = at("done").hidden = true;
  let all = await asked(`/review/questions?kind=${encodeURIComponent(kind)}`);
  while (!Array.isArray(all)) { // they are looked for
    if (mine !== choice) return;
    at("progress").textContent = `${all.words}: ${Math.round(100 * all.share)} %`;
    await new Promise((resolve) => setTimeout(resolve, 700));
    all = await asked(`/review/questions?kind=${encodeURIComponent(kind)}`);
  }
  const now = await asked("/review/state");
  if (mine !== choice) return; // another choice has been made since
  const counts = new Map();
  for (const [, c] of all) counts.set(c, (counts.get(c) ?? 0) + 1);
  const isWhole = kind === "suggestions";
  const options = [["", isWhole ? `all (${all.length})` : `all classes (${all.length})`]];
  about.classes.forEach((name, c) => {
    if (counts.has(c)) options.push([String(c), `${name} (${counts.get(c)})`]);
  });
  at("only").replaceChildren(...options.map(([value, text]) => {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    return option;
  }));
  at("only").value = options.some(([value]) => value === only) ? only : "";
  at("only").disabled = options.length < 2;
  questions = all.filter(([, c]) => at("only").value === "" || c === Number(at("only").value));
  take(now, true);
  place = nextOpen(0);
  show();
}

const start = () => choose().catch((error) => { at("progress").textContent = error.message; });
at("kind").addEventListener("change", () => { at("only").value = ""; start(); });
at("only").addEventListener("change", start);
// Another tab may have decided in the meantime.
addEventListener("focus", () => guarded(async () => {
  if (!questions.length) return;
  take(await asked("/review/state"), true);
  if (current() && decided.has(key(current()))) place = nextOpen(place);
  show();
}));

const keys = { y: () => answer("1"), n: () => answer("0"), u: () => answer("unknown"), s: skip, b: both, d: labelled, z: undo };
for (const [id, letter] of [["yes", "y"], ["no", "n"], ["unknown", "u"], ["skip", "s"], ["both", "b"], ["labelled", "d"], ["undo", "z"]]) {
  at(id).addEventListener("click", keys[letter]);
}
at("add").addEventListener("submit", add);
at("label").addEventListener("keydown", (event) => {
  if (event.key === "Escape") at("label").blur();
});
addEventListener("keydown", (event) => {
  const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const letter = event.key.toLowerCase();
  if (letter === "a" || letter === "/") {
    event.preventDefault();
    if (at("more").hidden) return;
    at("label").focus();
  } else if (letter in keys) {
    event.preventDefault();
    keys[letter]();
  } else if (/^[1-9]$/.test(letter) && current()?.[1] === ALL) {
    at("labels").querySelectorAll("button")[letter - 1]?.click();
  }
});
for (const name of about.classes) {
  const option = document.createElement("option");
  option.value = name;
  at("classes").append(option);
}
start();
