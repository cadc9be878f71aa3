// Files to keep: all of a list that the filters let through, as CSV or JSON.

import { $ } from "./dom.js";

/**
 * Lets the buttons of the list `name` download it; `parameters` says which filters are set. It is the browser that
 * writes the file, however large, and that tells if it breaks off.
 */
export function offerExport(name, parameters) {
  for (const format of ["csv", "json"]) {
    $(`export-${name}-${format}`).addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = `/dashboard/api/v1/export/${name}.${format}?${new URLSearchParams(parameters())}`;
      link.download = "";
      link.click();
    });
  }
}
