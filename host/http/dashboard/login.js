// After the login, the browser goes to the view that it was to show.

const form = document.querySelector('form[action="/login"]');
if (form) {
  form.action = `/login${location.hash}`;
  // A browser that followed a link of another site sends no cookie, also if the user has logged in.
  fetch('/v1/host').then((answer) => answer.ok && location.replace(`/?again${location.hash}`), () => {});
}
