import java.util.Properties;
import javax.mail.Message;
import javax.mail.Session;
import javax.mail.Transport;
import javax.mail.internet.InternetAddress;
import javax.mail.internet.MimeMessage;

/** JavaMail as most business applications use it: host, port, no login. */
public class Send {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.put("mail.smtp.host", arguments[0]);
        properties.put("mail.smtp.port", arguments[1]);
        MimeMessage message = new MimeMessage(Session.getInstance(properties));
        message.setFrom(new InternetAddress(arguments[2]));
        message.setRecipient(Message.RecipientType.TO, new InternetAddress(arguments[3]));
        message.setSubject("from java");
        message.setText(arguments[4], "utf-8");
        Transport.send(message);
    }
}
