//! A user's key and certificate, as `ringmesh cert create` gets and keeps them. The agent never sees the key.

use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};

use super::{IdentityError, cert, files, state::pem};
use crate::config::is_name;

/// A key for which a certificate is asked.
pub struct UserRequest {
    name: String,
    key: KeyPair,
    csr: CertificateSigningRequestDer<'static>,
}

/// Where they are.
pub struct UserFiles {
    /// The CAs of the cluster.
    pub authorities: PathBuf,
    /// Readable by anyone.
    pub certificate: PathBuf,
    /// Readable by its owner.
    pub key: PathBuf,
}

impl UserFiles {
    fn new(directory: &Path, name: &str) -> Self {
        let of = |end: &str| directory.join(format!("{name}.{end}"));
        Self { authorities: directory.join("ca.pem"), certificate: of("pem"), key: of("key") }
    }
}

impl UserRequest {
    /// Makes a key for a user of this name, to be kept in `directory`.
    ///
    /// # Errors
    /// If the name is none, or there is a key of that name already.
    pub fn new(name: &str, directory: &Path) -> Result<Self, IdentityError> {
        if !is_name(name) {
            return Err(IdentityError::UserName(name.to_owned()));
        }
        let path = UserFiles::new(directory, name).key;
        if path.exists() {
            return Err(IdentityError::UserExists(path));
        }
        let (key, csr) = cert::request()?;
        Ok(Self { name: name.to_owned(), key, csr })
    }

    /// To be signed: PKCS #10 in DER.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// Keeps what was signed, both certificates in DER.
    pub fn keep(
        &self,
        directory: &Path,
        certificate: Vec<u8>,
        authorities: Vec<Vec<u8>>,
    ) -> Result<UserFiles, IdentityError> {
        files::make_directory(directory)?;
        let paths = UserFiles::new(directory, &self.name);
        let all: String = authorities.into_iter().map(|der| pem(&CertificateDer::from(der))).collect();
        files::write(&paths.key, self.key.serialize_pem().as_bytes(), files::SECRET)?;
        files::write(&paths.certificate, pem(&certificate.into()).as_bytes(), files::PUBLIC)?;
        files::write(&paths.authorities, all.as_bytes(), files::PUBLIC)?;
        Ok(paths)
    }
}
