// Passkeys (WebAuthn): asks the browser's authenticator, puts its answer into the form, and sends that.
// <form data-passkey="URL of what to ask for a sign-in"> or <form data-passkey-options="what to ask for a new one">.

const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const text = (buffer) =>
  buffer === null ? null : btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const withBytes = (list) => (list || []).map((one) => ({ ...one, id: bytes(one.id) }));

const made = async (options) => {
  const credential = await navigator.credentials.create({
    publicKey: {
      ...options,
      challenge: bytes(options.challenge),
      user: { ...options.user, id: bytes(options.user.id) },
      excludeCredentials: withBytes(options.excludeCredentials),
    },
  });
  return answer(credential, { attestationObject: text(credential.response.attestationObject) });
};

const used = async (options) => {
  const credential = await navigator.credentials.get({
    publicKey: { ...options, challenge: bytes(options.challenge), allowCredentials: withBytes(options.allowCredentials) },
  });
  const { authenticatorData, signature, userHandle } = credential.response;
  return answer(credential, { authenticatorData: text(authenticatorData), signature: text(signature), userHandle: text(userHandle) });
};

const answer = (credential, more) =>
  JSON.stringify({
    id: credential.id,
    rawId: text(credential.rawId),
    type: credential.type,
    response: { clientDataJSON: text(credential.response.clientDataJSON), ...more },
  });

const begun = async (form) => {
  const csrf = form.elements.csrf ? { "x-csrf-token": form.elements.csrf.value } : {};
  const response = await fetch(form.dataset.passkey, { method: "POST", headers: csrf });
  if (!response.ok) throw new Error("The relay did not answer as it should; load the page again.");
  const { ceremony, options } = await response.json();
  form.elements.ceremony.value = ceremony;
  return options;
};

const can = window.PublicKeyCredential !== undefined && window.isSecureContext;
for (const note of document.querySelectorAll("[data-passkey-cannot]")) note.hidden = can;
for (const form of can ? document.querySelectorAll("form[data-passkey], form[data-passkey-options]") : []) {
  const button = form.querySelector("[data-passkey-go]"), told = form.querySelector("[data-passkey-error]");
  const go = async () => {
    if (form.dataset.passkeyOptions && !form.reportValidity()) return;
    button.disabled = true;
    told.hidden = true;
    try {
      form.elements.answer.value = form.dataset.passkeyOptions
        ? await made(JSON.parse(form.dataset.passkeyOptions))
        : await used(await begun(form));
      form.submit();
    } catch (error) {
      const name = error instanceof DOMException ? error.name : "";
      told.textContent =
        { NotAllowedError: "It was cancelled, or took too long.", InvalidStateError: "This device has a passkey of yours already.", SecurityError: "Open the console by its own address, with HTTPS." }[name] || error.message;
      told.hidden = false;
      button.disabled = false;
    }
  };
  button.hidden = false;
  button.addEventListener("click", go);
  if (form.dataset.passkeyOptions) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      go();
    });
  }
}
