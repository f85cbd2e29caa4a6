"use strict";
// Draws each figure in the colours of the page, and again when these change or the page is printed.
(() => {
  const PRINT_WIDTH = 680;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colours = {
    light: { ink: "#1c2025", grid: "#e6e9ed", hover: "#ffffff" },
    dark: { ink: "#e4e7eb", grid: "#2c323a", hover: "#262c33" },
  };
  const plots = [...document.querySelectorAll(".plot")].map((place) => ({
    place, figure: JSON.parse(document.getElementById("data-" + place.id).textContent),
  }));

  function template({ ink, grid, hover }) {
    const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true, title: { standoff: 8 } };
    const font = { color: ink, family: "system-ui, sans-serif", size: 12 };
    const hoverlabel = { bgcolor: hover, bordercolor: grid, font: { color: ink } };
    const none = "rgba(0,0,0,0)";
    return { layout: { paper_bgcolor: none, plot_bgcolor: none, font, hoverlabel, xaxis: axis, yaxis: axis } };
  }

  function draw(printing) {
    const look = template(dark.matches && !printing ? colours.dark : colours.light);
    const touch = window.matchMedia("(pointer: coarse)").matches;
    for (const { place, figure } of plots) {
      const size = printing ? { autosize: false, width: PRINT_WIDTH } : { autosize: true };
      const layout = { ...structuredClone(figure.layout), ...size, template: look };
      if (touch) layout.dragmode = false; // So that a finger scrolls the page.
      Plotly.react(place, figure.data, layout, { responsive: true, displayModeBar: false });
    }
  }

  draw(false);
  dark.addEventListener("change", () => draw(false));
  window.addEventListener("beforeprint", () => draw(true));
  window.addEventListener("afterprint", () => draw(false));
})();
