//! `ringmesh cert`

use clap::Subcommand;
use jiff::Timestamp;
use ringmesh_proto::v1::{
    Authority, Certificate, GetCertificateRequest, RenewCertificateRequest, RevokedCertificate,
    certificates_client::CertificatesClient,
};

use crate::{
    context::{Context, client},
    error::CliError,
    output::{details::Details, note, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Show the agent's certificate, and which CAs it trusts.
    #[command(after_help = "\
Fingerprints are SHA-256 of the certificate; `host list -o json` has the first 16 digits of the CA that signed for each \
host.

Examples:
  ringmesh cert show
  ringmesh --host h3 cert show -o json | jq -r .not_after")]
    Show,
    /// Get a new certificate now, from a host that holds the CA's key.
    #[command(after_help = "\
The agent does so by itself when two thirds of the certificate's life are over. Connections stay as they are; new ones \
use the new certificate.")]
    Renew,
}

pub(crate) async fn run(context: &Context, command: CertCommand) -> Result<(), CliError> {
    let mut client = client!(context, CertificatesClient);
    let certificate = match command {
        CertCommand::Show => context.call(client.get_certificate(GetCertificateRequest {})).await?,
        CertCommand::Renew => {
            let renewed = context.call(client.renew_certificate(RenewCertificateRequest {})).await?;
            note(&format!("{} has a new certificate until {}", renewed.name, time::stamp(renewed.not_after.as_ref())));
            renewed
        }
    };
    context.printer.details(&certificate, describe)
}

/// Of the commands about certificates and CAs.
pub(super) fn describe(certificate: &Certificate, out: &mut Details) {
    let now = Timestamp::now();
    out.add("Name", &certificate.name);
    out.add("Id", &certificate.id);
    out.add("Serial", &certificate.serial);
    out.add("Valid from", time::stamp(certificate.not_before.as_ref()));
    out.add("Valid until", time::stamp(certificate.not_after.as_ref()));
    out.add("Renewed from", time::stamp(certificate.renews_at.as_ref()));
    let issuer = if certificate.issuer.is_empty() { "a CA that is not trusted any more" } else { &certificate.issuer };
    out.add("Issuer", issuer);
    for authority in &certificate.authorities {
        out.add(if authority.signs { "CA, signs" } else { "CA, trusted" }, authority_text(authority));
    }
    if certificate.overlap_until.is_some() {
        out.add("Overlap until", time::stamp(certificate.overlap_until.as_ref()));
    }
    out.add("CA changes", certificate.trust_version.to_string());
    out.add("Signers", certificate.signers.join(", "));
    for revoked in &certificate.revocations {
        out.add("Revoked", revoked_text(now, revoked));
    }
    out.add("Problem", &certificate.problem);
}

fn authority_text(authority: &Authority) -> String {
    let until = time::stamp(authority.not_after.as_ref());
    let hosts = if authority.hosts.is_empty() { "no host".to_owned() } else { authority.hosts.join(", ") };
    format!("{} until {until}; of {hosts}", authority.fingerprint)
}

fn revoked_text(now: Timestamp, revoked: &RevokedCertificate) -> String {
    let what = if revoked.serial.is_empty() { String::new() } else { format!(", only certificate {}", revoked.serial) };
    let at = time::stamp_and_age(now, revoked.revoked_at.as_ref());
    format!("{} ({}){what}, {at}", revoked.host, revoked.id)
}
