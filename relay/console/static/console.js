// The little that pages need beside htmx. Every form works without it.

// Times in the zone of whoever looks; UTC stays in the tooltip.
const zoned = (root) => {
  for (const time of root.querySelectorAll("time[datetime]:not([title])")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.title = time.dateTime;
    const near = Math.abs(Date.now() - at) < 43200000;
    time.textContent = at.toLocaleString(undefined, near ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" });
  }
};
zoned(document);
document.addEventListener("htmx:load", (event) => zoned(event.detail.elt));

// What refreshes itself rests while nobody looks, while it is switched off, and while somebody selects or uses what is in it.
const inUse = (place) => {
  const marked = getSelection();
  return (place !== document.activeElement && place.contains(document.activeElement)) || (!marked.isCollapsed && place.contains(marked.anchorNode));
};
document.addEventListener("htmx:beforeRequest", (event) => {
  const place = event.detail.elt;
  if (!("live" in place.dataset)) return;
  const toggle = document.getElementById(place.dataset.live);
  if (document.hidden || (toggle && !toggle.checked) || inUse(place)) event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) for (const place of document.querySelectorAll("[data-live]")) htmx.trigger(place, "shown");
});
// It says which state it shows: while nothing changed, nothing comes.
document.addEventListener("htmx:configRequest", (event) => {
  const seen = event.detail.elt.dataset.seen;
  if (seen) event.detail.headers["If-None-Match"] = seen;
});
document.addEventListener("htmx:afterRequest", (event) => {
  const tag = event.detail.xhr.getResponseHeader("ETag");
  if (tag && "seen" in event.detail.elt.dataset) event.detail.elt.dataset.seen = tag;
});
// Answers with an error status are shown, too: they say why not.
document.addEventListener("htmx:beforeSwap", (event) => {
  const status = event.detail.xhr.status;
  if (status === 304) event.detail.shouldSwap = false;
  if (status >= 400 && status !== 401) {
    event.detail.shouldSwap = !("live" in event.detail.elt.dataset);
    event.detail.isError = false;
  }
});

// What was held up by the question who it is goes on.
document.querySelector("form[data-go-on]")?.submit();

// A form that asks first: <form data-confirm="…">. Without scripts the server asks.
document.addEventListener("submit", (event) => {
  const form = event.target, question = form.dataset.confirm;
  if (!question) return;
  if (!window.confirm(question)) return event.preventDefault();
  const sure = document.createElement("input");
  Object.assign(sure, { type: "hidden", name: "sure", value: "yes" });
  form.append(sure);
});

// Tick all; copy to the clipboard. Both are hidden where they would not work.
for (const all of document.querySelectorAll("input[data-all]")) {
  all.hidden = false;
  all.addEventListener("change", () => {
    for (const one of all.form.elements[all.dataset.all] instanceof RadioNodeList ? all.form.elements[all.dataset.all] : [all.form.elements[all.dataset.all]]) one.checked = all.checked;
  });
}
for (const button of document.querySelectorAll("button[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const from = document.getElementById(button.dataset.copy);
    await navigator.clipboard.writeText(from.value ?? from.textContent);
    button.textContent = "Copied";
  });
}
