// What the theme leaves without a name or out of reach of the keyboard: the sections of the menu, the
// search, tables that scroll sideways on a phone. What is no landmark is not announced as one: the
// box around the button that copies code, and the inner lists of a table of contents.
const mend = () => {
  for (const nav of document.querySelectorAll(".md-nav[aria-labelledby]")) {
    nav.setAttribute("aria-label", nav.querySelector(".md-nav__title").textContent.trim());
    nav.removeAttribute("aria-labelledby");
  }
  for (const nav of document.querySelectorAll(".md-code__nav, .md-nav--secondary .md-nav")) {
    nav.removeAttribute("aria-label");
    nav.setAttribute("role", "presentation");
  }
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search this site");
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) {
    box.setAttribute("tabindex", "0");
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "Table");
  }
};
mend();
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
