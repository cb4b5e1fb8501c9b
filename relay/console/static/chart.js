// Draws the last hour: accepted, relayed, deferred, bounced a minute.
const place = document.getElementById("chart");
if (place) {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const line = (label, name, dash) => ({ label, stroke: colour(name), width: 2, dash, value: (_, v) => (v == null ? "–" : v) });
  const axis = { stroke: colour("--text-light"), grid: { stroke: colour("--border"), width: 0.3 } };
  const lastHour = (plot) => {
    const end = plot.data[0].length ? plot.data[0][plot.data[0].length - 1] : Date.now() / 1000;
    return [end - 3600, end];
  };
  let plot = null;
  const draw = async () => {
    if (document.hidden) return;
    const answer = await fetch(place.dataset.source, { headers: { accept: "application/json" } });
    if (!answer.ok) return;
    const columns = await answer.json();
    if (plot) return plot.setData(columns);
    plot = new uPlot({
      width: place.clientWidth, height: 220, scales: { x: { range: lastHour }, y: { range: (_, low, high) => [0, Math.max(5, high)] } },
      axes: [axis, axis],
      series: [{}, line("accepted", "--accent"), line("relayed", "--good", [6, 4]), line("deferred", "--warn", [2, 3]), line("bounced", "--bad")],
    }, columns, place);
  };
  draw();
  setInterval(draw, 15000);
  addEventListener("resize", () => plot && plot.setSize({ width: place.clientWidth, height: 220 }));
}
