"use strict";
const said = document.querySelector("[role=status]");
let last;

// Only pages that came by https, or from this machine, have navigator.clipboard; the older way works everywhere.
async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    const put = (event) => {
      event.clipboardData.setData("text/plain", code.textContent);
      event.preventDefault();
    };
    getSelection().selectAllChildren(code);
    document.addEventListener("copy", put);
    try {
      return document.execCommand("copy");
    } finally {
      document.removeEventListener("copy", put);
    }
  }
}

for (const button of document.querySelectorAll("button")) {
  const label = button.firstChild;
  let back;
  button.hidden = false;
  button.addEventListener("click", async () => {
    // What could not be copied is selected.
    const done = await copy(button.parentElement.querySelector("code"));
    label.data = done ? "Copied" : "Press Ctrl+C";
    button.classList.toggle("done", done);
    last = button;
    said.textContent = "";
    said.textContent = done ? "Copied" : "Selected: press Ctrl+C to copy";
    clearTimeout(back);
    back = setTimeout(() => {
      label.data = "Copy";
      button.classList.remove("done");
      // What is said of another one by now stays.
      if (last === button) said.textContent = "";
    }, 2500);
  });
}
