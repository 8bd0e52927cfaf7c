// Everything on the pages works without this script. It asks before it logs
// other devices out, shows times as the reader's own clock has them, and lets
// a password be looked at while it is typed.
"use strict";

// Questions: a form with data-confirm is sent once the answer is yes.
const dialog = document.getElementById("confirm");
if (dialog && dialog.showModal) {
  let asked = null;
  document.addEventListener("submit", (event) => {
    if (!event.target.dataset.confirm) return;
    event.preventDefault();
    asked = event.target;
    document.getElementById("question").textContent = asked.dataset.confirm;
    dialog.showModal();
    dialog.querySelector('[value="no"]').focus();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target.value === "yes") asked.submit();
    if (event.target.value) dialog.close();
  });
}

// Times: in the reader's zone, and worded anew while the page stays open. The
// words are those of times.go.
function lastActive(at, now) {
  const minutes = Math.floor((now - at) / 60000);
  if (minutes < 3) return "active now";
  if (minutes < 60) return minutes + " minutes ago";
  return day(at, now);
}

function day(at, now) {
  const midnight = (t) => Date.UTC(t.getFullYear(), t.getMonth(), t.getDate());
  const near = { "-1": "yesterday", 0: "today", 1: "tomorrow" }[(midnight(at) - midnight(now)) / 86400000];
  if (near) return near;
  const month = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ")[at.getMonth()];
  const year = at.getFullYear() === now.getFullYear() ? "" : " " + at.getFullYear();
  return at.getDate() + " " + month + year;
}

const list = document.querySelector("[data-now]");
if (list) {
  const exact = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
  // The server's clock counts, not the reader's, which may be wrong by hours.
  const ahead = Date.parse(list.dataset.now) - Date.now();
  const word = () => {
    const now = new Date(Date.now() + ahead);
    for (const time of list.querySelectorAll("time")) {
      const at = new Date(time.dateTime);
      if ("exact" in time.dataset) {
        time.textContent = exact.format(at);
        continue;
      }
      time.title = exact.format(at);
      const words = "seen" in time.dataset ? lastActive(at, now) : day(at, now);
      if (time.textContent !== words) time.textContent = words;
      if ("seen" in time.dataset) time.classList.toggle("active", words === "active now");
    }
  };
  word();
  setInterval(word, 30000);
}

// Passwords: shown on request.
for (const button of document.querySelectorAll("[data-reveal]")) {
  const input = document.getElementById(button.dataset.reveal);
  button.hidden = false;
  button.addEventListener("click", () => {
    const shown = input.type === "password";
    input.type = shown ? "text" : "password";
    button.setAttribute("aria-pressed", shown);
  });
  // Sent as a password, so that a browser does not keep it as a text that was typed.
  input.form.addEventListener("submit", () => { input.type = "password"; });
}
