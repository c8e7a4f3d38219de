// A short name or option in a sentence stays on one line: a browser would break it behind its hyphens.
document$.subscribe(() => {
  for (const code of document.querySelectorAll(".md-typeset :not(pre) > code"))
    if (code.textContent.length < 25 && !code.closest("table")) code.style.whiteSpace = "nowrap";
});
