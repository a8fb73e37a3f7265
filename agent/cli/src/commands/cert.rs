//! `ringmesh cert`

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use ringmesh_proto::v1::{
    Authority, Certificate, CreateUserRequest, GetCertificateRequest, RenewCertificateRequest, RevokedCertificate,
    certificates_client::CertificatesClient, create_user_request::Access,
};

use serde::Serialize;

use crate::{
    agentd::identity::{UserFiles, UserRequest},
    args::duration,
    context::{Context, client},
    error::CliError,
    output::{Format, details::Details, note, time},
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
    Create(CreateArgs),
}

/// Make a key and a certificate for somebody who uses the API over TCP.
#[derive(Args, Debug)]
#[command(after_help = "\
An admin may do all; an operator all but certificates, tokens and copies of the whole configuration; a reader looks; a \
tenant's user sees and changes the objects of that tenant, and nothing else. Ask a host that holds the CA's key.

The key is made here and stays here. A certificate cannot be revoked by itself: give it a short life.

Examples:
  ringmesh cert create alice --role operator
  ringmesh cert create dashboard --role reader --lifetime 24h --out /etc/dashboard
  ringmesh cert create bob --role tenant --tenant acme")]
pub(crate) struct CreateArgs {
    /// Of the user: a-z, 0-9 and '-'.
    #[arg(value_name = "NAME")]
    name: String,
    /// What the user may do.
    #[arg(long, value_name = "ROLE")]
    role: UserRole,
    /// With `--role tenant`: whose.
    #[arg(long, value_name = "TENANT", required_if_eq("role", "tenant"))]
    tenant: Option<String>,
    /// How long it is good for, at most 365 days.
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = duration)]
    lifetime: Duration,
    /// Where NAME.key, NAME.pem and ca.pem go.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UserRole {
    Admin,
    Operator,
    Reader,
    Tenant,
}

impl UserRole {
    fn access(self) -> Access {
        match self {
            Self::Admin => Access::Admin,
            Self::Operator => Access::Operator,
            Self::Reader => Access::Reader,
            Self::Tenant => Access::Tenant,
        }
    }
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
        CertCommand::Create(args) => return create(context, args).await,
    };
    context.printer.details(&certificate, describe)
}

async fn create(context: &Context, args: CreateArgs) -> Result<(), CliError> {
    let lifetime = prost_types::Duration::try_from(args.lifetime)
        .map_err(|_| CliError::Usage("--lifetime is too long: 365 days are the most".into()))?;
    let asked = UserRequest::new(&args.name, &args.out).map_err(|error| CliError::failed(&error))?;
    let mut client = client!(context, CertificatesClient);
    let request = CreateUserRequest {
        name: args.name.clone(),
        access: args.role.access().into(),
        tenant: args.tenant.unwrap_or_default(),
        lifetime: Some(lifetime),
        csr: asked.csr().to_vec().into(),
    };
    let answer = context.call(client.create_user(request)).await?;
    let authorities = answer.authorities.iter().map(|der| der.to_vec()).collect();
    let kept = asked.keep(&args.out, answer.certificate.to_vec(), authorities);
    let UserFiles { authorities, certificate, key } = kept.map_err(|error| CliError::failed(&error))?;
    let files = UserPaths {
        ca: authorities.display().to_string(),
        certificate: certificate.display().to_string(),
        key: key.display().to_string(),
        not_after: time::stamp(answer.not_after.as_ref()),
    };
    context
        .printer
        .value(&files, || format!("--ca {} --cert {} --key {}\n", files.ca, files.certificate, files.key))?;
    if matches!(context.printer.format, Format::Table | Format::Wide) {
        note(&format!("{} may use these until {}, with --host ADDRESS:PORT of any host", args.name, files.not_after));
    }
    Ok(())
}

/// What is printed of them.
#[derive(Serialize)]
struct UserPaths {
    ca: String,
    certificate: String,
    key: String,
    not_after: String,
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
