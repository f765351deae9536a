// Draws every <div class="chart" data-series='{"rounds": […], "validation": […]}'>, and again after
// each swap. All numbers also stand in the table below.
"use strict";

const COLOURS = { validation: "#2e7d6b", test: "#b3541e" };

function draw(element) {
  const series = JSON.parse(element.dataset.series);
  const parts = Object.keys(series).filter((name) => name !== "rounds");
  const ink = getComputedStyle(element).color;
  const axis = { stroke: ink, grid: { stroke: "rgba(128, 128, 128, .25)" } };
  const options = {
    width: element.clientWidth || 480,
    height: 220,
    scales: { x: { time: false } },
    axes: [axis, axis],
    series: [
      { label: "round" },
      ...parts.map((name) => ({
        label: name, stroke: COLOURS[name] || ink, width: 2, points: { size: 5 },
      })),
    ],
  };
  element.replaceChildren();
  new uPlot(options, [series.rounds, ...parts.map((name) => series[name])], element);
}

function drawAll() {
  document.querySelectorAll(".chart").forEach(draw);
}

document.addEventListener("DOMContentLoaded", drawAll);
document.addEventListener("htmx:sseMessage", drawAll);
