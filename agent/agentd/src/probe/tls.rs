//! TLS for probes: whose certificates are believed, and what is wrong with one in words.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use ringmesh_node::health::spec::{Tls, Trust};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::answer;

/// The most trusts whose files are kept read.
const MAX_KEPT: usize = 256;

/// What checks trust, read from their files. A file that has changed is read again.
#[derive(Debug, Default)]
pub(super) struct Trusts(Mutex<BTreeMap<Trust, Read>>);

/// What was made of a file, and when that was last changed.
#[derive(Clone, Debug)]
struct Read {
    changed: Option<SystemTime>,
    config: Arc<ClientConfig>,
}

impl Trusts {
    fn config(&self, trust: &Trust) -> Result<Arc<ClientConfig>, String> {
        let changed = match trust {
            Trust::Ca(path) => fs::metadata(path).and_then(|metadata| metadata.modified()).ok(),
            Trust::Anyone => None,
        };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = kept.get(trust).filter(|read| read.changed == changed) {
            return Ok(Arc::clone(&read.config));
        }
        let config = Arc::new(client_config(trust)?);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(trust.clone(), Read { changed, config: Arc::clone(&config) });
        Ok(config)
    }
}

/// Makes a TLS connection of `stream`; why not, in words.
pub(super) async fn connect(trusts: &Trusts, tls: &Tls, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
    let config = trusts.config(&tls.trust)?;
    let name = server_name(&tls.name)?;
    let connected = TlsConnector::from(config).connect(name, stream).await;
    connected.map_err(|error| match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(error) => words(error, tls),
        None => format!("no TLS: {}", answer::root_cause(&error)),
    })
}

/// The name that a certificate must be for; why it cannot be one.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.to_owned()).map_err(|_| format!("\"{}\" is no name of a server", name.escape_debug()))
}

fn client_config(trust: &Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = match trust {
        Trust::Ca(path) => builder.with_root_certificates(read_roots(path)?).with_no_client_auth(),
        Trust::Anyone => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(BelieveAnyone(provider)))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A probe is to see what a new client sees.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let unusable = |error: &dyn std::fmt::Display| format!("cannot use the CAs in {}: {error}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))? {
        roots.add(certificate.map_err(|error| unusable(&error))?).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() { Err(unusable(&"there is none")) } else { Ok(roots) }
}

fn words(error: &Error, tls: &Tls) -> String {
    let day = |time: &UnixTime| {
        let time = i64::try_from(time.as_secs()).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        time.map_or_else(|| "a time out of range".to_owned(), |time| time.to_string())
    };
    let Error::InvalidCertificate(error) = error else { return format!("no TLS: {error}") };
    let name = &tls.name;
    #[allow(clippy::wildcard_enum_match_arm, reason = "the other errors say what they mean")]
    match error {
        CertificateError::Expired => "the server's certificate has expired".into(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the server's certificate has expired, at {}", day(not_after))
        }
        CertificateError::NotValidYet => "the server's certificate is not valid yet".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the server's certificate is not valid yet, only from {}", day(not_before))
        }
        CertificateError::NotValidForName => format!("the server's certificate is not for {name}"),
        CertificateError::NotValidForNameContext { presented, .. } => {
            format!("the server's certificate is not for {name}, but for {}", presented.join(", "))
        }
        // The other one: signed by a CA that only has the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => match &tls.trust {
            Trust::Ca(path) => format!("the server's certificate is signed by no CA in {}", path.display()),
            Trust::Anyone => "the server's certificate is signed by an unknown CA".into(),
        },
        other => format!("the server's certificate is not valid: {other}"),
    }
}

/// For `insecure = true`: a certificate must be there and its key be used, and that is all.
#[derive(Debug)]
struct BelieveAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for BelieveAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
