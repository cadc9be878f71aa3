// Draws bars with Chart.js (vendor/), which is loaded when it is needed first. No animation: numbers that live do not dance.

let library = null;

/** What is drawn, by canvas. */
const drawings = new Map();

async function load() {
  library ??= import("./chart.umd.min.js");
  await library;
  return globalThis.Chart;
}

export function forgetDrawings() {
  for (const drawing of drawings.values()) drawing.destroy();
  drawings.clear();
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Bars from the bottom up, each with a part for each column. */
export const barsUp = (canvas, columns, rows) => draw(canvas, columns, rows, "x");

/** Bars from the bottom up, beside each other for each column. */
export const barsBeside = (canvas, columns, rows) => draw(canvas, columns, rows, "x", false);

/** Bars below each other from left to right. */
export function barsAcross(canvas, columns, rows) {
  canvas.parentElement.dataset.rows = String(Math.min(Math.max(rows.length, 3), 12));
  return draw(canvas, columns, rows, "y");
}

async function draw(canvas, columns, rows, along, stacked = true) {
  const Chart = await load();
  const data = {
    labels: rows.map((row) => row.name),
    datasets: columns.map(({ key, name }) => ({
      label: name,
      data: rows.map((row) => row[key]),
      backgroundColor: colour(`chart-${key}`),
      borderColor: colour("raised"),
      borderWidth: along === "x" ? { top: 1 } : { right: 1 },
      maxBarThickness: 28,
    })),
  };
  const drawn = drawings.get(canvas);
  if (drawn) {
    drawn.data = data;
    drawn.update("none");
  } else {
    drawings.set(canvas, new Chart(canvas, { type: "bar", data, options: options(along, stacked) }));
  }
  canvas.setAttribute("aria-label", summary(canvas, columns, rows));
}

function options(along, stacked) {
  const across = along === "x" ? "y" : "x";
  const ticks = { color: colour("quiet"), font: { family: getComputedStyle(document.body).fontFamily } };
  return {
    animation: false,
    responsive: true,
    maintainAspectRatio: false,
    indexAxis: along,
    interaction: { mode: "index", axis: along, intersect: false },
    scales: {
      [along]: {
        stacked,
        grid: { display: false },
        border: { color: colour("line") },
        ticks: { ...ticks, autoSkip: along === "x", maxRotation: 0 },
      },
      [across]: {
        stacked,
        beginAtZero: true,
        border: { display: false },
        grid: { color: colour("line") },
        ticks: { ...ticks, precision: 0, maxTicksLimit: 5 },
      },
    },
    plugins: {
      legend: { display: false },
      tooltip: { filter: (item) => item.raw > 0 },
    },
  };
}

/** For who does not see it: the highest bar. All numbers are in the table. */
function summary(canvas, columns, rows) {
  const of = (row) => columns.reduce((sum, { key }) => sum + row[key], 0);
  const highest = rows.reduce((best, row) => (of(row) > of(best) ? row : best), rows[0]);
  const title = canvas.closest("figure").querySelector("h2").textContent;
  if (!highest || of(highest) === 0) return `${title}: nothing yet`;
  return `${title}: most are ${highest.name}, ${of(highest)}; the table below has all`;
}
