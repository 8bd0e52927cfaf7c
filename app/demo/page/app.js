// Calls the API once a second and shows what came back.
"use strict";

const keep = 12; // rows in the table
const $ = (id) => document.getElementById(id);
let calls = 0, failed = 0, seen = 0, last = "", issued = 0, expires = 0;

function row(cells, className) {
  const tr = document.createElement("tr");
  tr.className = className;
  for (const text of cells) {
    const td = document.createElement("td");
    td.textContent = text;
    tr.append(td);
  }
  $("log").prepend(tr);
  while ($("log").rows.length > keep) $("log").deleteRow(-1);
}

async function call() {
  const start = performance.now();
  let status = 0, body = null;
  try {
    const answer = await fetch("/api/whoami", { headers: { Accept: "application/json" } });
    status = answer.status;
    body = await answer.json();
  } catch (e) { /* shown as status 0 */ }
  const took = Math.round(performance.now() - start) + " ms";
  $("calls").textContent = ++calls;
  const time = new Date().toLocaleTimeString([], { hour12: false });
  if (status !== 200) {
    $("failed").textContent = ++failed;
    row([time, status + " " + (body && body.error || ""), took, "–"], "bad");
    if (status === 401) {
      $("state").textContent = "This device is signed out. Reload to sign in again.";
      expires = 0;
      $("life").value = 0;
      $("left").textContent = "–";
      return false;
    }
    return true;
  }
  $("state").textContent = "";
  $("email").textContent = body.email;
  const fresh = body.token.number !== last;
  if (fresh) {
    last = body.token.number;
    $("tokens").textContent = ++seen;
    issued = Date.parse(body.token.issued_at);
    expires = Date.parse(body.token.expires_at);
  }
  row([time, "200", took, last.slice(0, 8) + (fresh && seen > 1 ? " (refreshed)" : "")], fresh ? "new" : "");
  return true;
}

setInterval(() => {
  if (!expires) return;
  const left = Math.max(0, expires - Date.now());
  $("left").textContent = (left / 1000).toFixed(0) + " s";
  $("life").value = left / (expires - issued);
}, 200);

(async () => {
  while (await call()) await new Promise((next) => setTimeout(next, 1000));
})();
