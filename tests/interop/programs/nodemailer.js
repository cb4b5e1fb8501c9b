// Nodemailer as its manual shows it, without a login; NODE_PATH says where it is.
const [host, port, from, to, text] = process.argv.slice(2);
const transport = require('nodemailer').createTransport({ host, port: Number(port), secure: false, ignoreTLS: true });
transport.sendMail({ from, to, subject: 'from node', text }).then(
  () => process.exit(0),
  (error) => { console.error(error.message); process.exit(1); },
);
