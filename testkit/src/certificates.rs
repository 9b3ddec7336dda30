use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// An authority of a test, with what it signed as PEM files in a folder.
pub struct Certificates {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    /// A new authority; its certificate is the file `authority.pem`, and one for this machine `chain.pem` with `key.pem`.
    pub fn new(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        std::fs::write(folder.join("authority.pem"), certificate.pem())?;
        let made = Self { folder: folder.to_owned(), issuer: Issuer::new(params, key) };
        made.renew()?;
        Ok(made)
    }

    /// Another certificate for this machine, in the same files. Gives it in PEM.
    pub fn renew(&self) -> Result<String> {
        let names = ["localhost", "127.0.0.1", "madang.example"].map(str::to_owned);
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "madang.example");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params, ("chain.pem", "key.pem"))
    }

    /// A certificate for a client, as `client.pem` and `client-key.pem`.
    pub fn client(&self, name: &str) -> Result<()> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, ("client.pem", "client-key.pem")).map(drop)
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn sign(&self, params: &CertificateParams, files: (&str, &str)) -> Result<String> {
        let key = KeyPair::generate()?;
        let chain = params.signed_by(&key, &self.issuer)?.pem();
        // The key first: whoever looks in between sees two that do not fit, and keeps what it has.
        std::fs::write(self.folder.join(files.1), key.serialize_pem())?;
        std::fs::write(self.folder.join(files.0), &chain)?;
        Ok(chain)
    }
}
