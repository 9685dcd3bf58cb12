// After the login, the browser goes to the view that it was to show.

const form = document.querySelector('form[action="/login"]');
if (form) form.action = `/login${location.hash}`;
