<?php // As a web application does it: mail() with headers of its own, the envelope sender as fifth argument.
[, $sender, $recipient, $body] = $argv;
$headers = "From: Shop <$sender>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit";
exit(mail($recipient, 'from php', $body, $headers, "-f$sender") ? 0 : 1);
