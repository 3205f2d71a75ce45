// While the runs are scored: how far that is. Then the page is loaded again, with the result.

const words = document.getElementById("words");
const share = document.getElementById("share");

async function look() {
  try {
    const answer = await fetch("/compare/progress");
    const said = await answer.json();
    if (!answer.ok) {
      words.textContent = said.error;
      share.hidden = true;
      return;
    }
    if (said.is_done) {
      location.reload();
      return;
    }
    if (words.textContent !== said.words) words.textContent = said.words;
    share.value = said.share;
  } catch {
    words.textContent = "grigri-fast serve does not answer: has it ended?";
    return;
  }
  setTimeout(look, 700);
}

if (words) look();
