// Before anything is shown: the colours that were chosen here earlier.
"use strict";
const theme = localStorage.getItem("theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
