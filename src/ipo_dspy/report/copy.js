for (const button of document.querySelectorAll("button.copy")) {
  const source = button.previousElementSibling;
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch { // some browsers have no clipboard for a page that is opened from a file, or do not permit its use
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
  });
}
