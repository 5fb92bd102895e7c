//! What a failed handshake means for the user.

use std::error::Error as StdError;

use rustls::{AlertDescription, CertificateError, Error};

/// Finds a TLS failure among an error's causes and says, in one sentence, what it means and what to
/// do; `None` when there is none, or none that can be said better than the error says it itself.
pub fn explain_tls_error(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = find(error) {
            return explain(tls);
        }
        cause = error.source();
    }
    None
}

/// An `io::Error` does not name the error it carries among its causes.
fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let carried = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    carried
        .and_then(|carried| carried.downcast_ref())
        .or_else(|| error.downcast_ref())
}

fn explain(error: &Error) -> Option<String> {
    use AlertDescription as Alert;
    use CertificateError as Certificate;
    let sentence = match error {
        Error::InvalidCertificate(Certificate::Other(other)) => return Some(other.0.to_string()),
        Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "the server's certificate has expired, or the clock of this machine is ahead: check `date` on both machines"
        }
        Error::InvalidCertificate(
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. },
        ) => {
            "the server's certificate is not valid yet: the clock of this machine is behind, check `date`"
        }
        Error::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => {
            "the server belongs to another cluster: its certificate is not of the CA that is trusted here"
        }
        Error::AlertReceived(Alert::CertificateExpired) => {
            "the server refuses this certificate as expired: join again with a new token, or have it approved with `weft node approve`"
        }
        Error::AlertReceived(Alert::UnknownCA | Alert::DecryptError) => {
            "the server refuses this certificate: it is of another cluster's CA"
        }
        Error::AlertReceived(Alert::ProtocolVersion) => {
            "the peer does not speak TLS 1.3, which Weft requires"
        }
        Error::InvalidMessage(_) => "the other side does not speak TLS: check the address and port",
        _ => return None,
    };
    Some(sentence.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_tls_failure_is_found_inside_an_io_error() {
        let tls = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let text = explain_tls_error(&io::Error::other(tls)).unwrap();
        assert!(text.contains("another cluster"), "{text}");
    }

    #[test]
    fn an_error_without_tls_in_it_is_left_alone() {
        assert_eq!(
            explain_tls_error(&io::Error::from(io::ErrorKind::ConnectionRefused)),
            None
        );
    }
}
