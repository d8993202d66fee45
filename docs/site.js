// Tables and plots that scroll sideways can be scrolled by keyboard. The theme makes the tables' frames when it shows a page.
document$.subscribe(() =>
  requestAnimationFrame(() =>
    document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset p:has(> img)").forEach((frame) => frame.setAttribute("tabindex", "0"))
  )
)
