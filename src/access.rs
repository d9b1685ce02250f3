//! How each configured cluster is reached, and how clients reach us: TLS, as the configuration says, and its files when they change.
//!
//! Owns the way from the configuration to a [`Dialer`] for each cluster and to the TLS that clients speak. It reads files and opens no socket; nothing here is
//! on the path of a byte. `run`, `check` and `verify` all take their connections from here.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use crate::config::{ClientAuth, ClusterTls, Config, ProxyTls, Region};
use crate::journal::{Journal, Kind};
use crate::net::Dialer;
use crate::net::tls::{Certificate, ClientCertificates, ClientTls, Files, Reread, Rereading, ServerTls, TlsError};

/// How often it is looked whether a file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Files that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct AccessError(pub Vec<TlsError>);

/// The ways to all clusters, and of clients to us.
pub struct Access {
    clients: Option<Arc<ServerTls>>,
    local: Dialer,
    regions: HashMap<String, Dialer>,
    keyrings: Vec<Arc<dyn Reread>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("clients", &self.clients).field("local", &self.local).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads all files that `config` names.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(config: &Config) -> Result<Self, AccessError> {
        let mut keyrings: Vec<Arc<dyn Reread>> = Vec::new();
        let mut errors = Vec::new();
        let clients = config.proxy.tls.as_ref().and_then(|tls| {
            let loaded = ServerTls::load(proxy_files(tls), client_certificates(tls.client_auth));
            loaded.map(Arc::new).map_err(|error| errors.push(error)).ok()
        });
        keyrings.extend(clients.as_ref().map(|tls| tls.keyring()));
        let mut dialer = |table: String, tls: Option<&ClusterTls>| {
            let Some(tls) = tls else { return Dialer::plain() };
            match ClientTls::load(cluster_files(table, tls), tls.server_name.as_deref()) {
                Ok(tls) => {
                    keyrings.push(tls.keyring());
                    Dialer::tls(Arc::new(tls))
                }
                Err(error) => {
                    errors.push(error);
                    Dialer::plain()
                }
            }
        };
        let local = dialer("[local.tls]".to_owned(), config.local.tls.as_ref());
        let region = |region: &Region| {
            let table = format!("[region.tls] of {:?}", region.name.as_str());
            (region.name.to_string(), dialer(table, region.tls.as_ref()))
        };
        let regions = config.region.iter().map(region).collect();
        if errors.is_empty() { Ok(Self { clients, local, regions, keyrings }) } else { Err(AccessError(errors)) }
    }

    /// What clients speak; `None`: plaintext.
    pub fn clients(&self) -> Option<Arc<ServerTls>> {
        self.clients.clone()
    }

    /// The way to the local cluster.
    pub fn local(&self) -> Dialer {
        self.local.clone()
    }

    /// The way to a region, by its name.
    pub fn region(&self, name: &str) -> Dialer {
        self.regions.get(name).cloned().unwrap_or_default()
    }

    /// The files of our own certificates, each with what was loaded from it last.
    pub fn certificates(&self) -> Vec<(PathBuf, Arc<Certificate>)> {
        let all: BTreeMap<_, _> = self.keyrings.iter().filter_map(|keyring| keyring.certificate()).collect();
        all.into_iter().collect()
    }

    /// Reads all files again at once, for an operator who asks for it. Each table with what came of it; the reasons of a refusal are logged as well.
    pub fn reload(&self, journal: &Journal, metrics: &CertificateMetrics) -> Vec<(String, Rereading)> {
        self.reread(false, journal, metrics)
    }

    /// Looks for changed files for ever.
    pub async fn watch(self: Arc<Self>, journal: Arc<Journal>, metrics: CertificateMetrics) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let (access, journal, metrics) = (self.clone(), journal.clone(), metrics.clone());
            // Files may lie on a disk that hangs.
            let looked = tokio::task::spawn_blocking(move || access.reread(true, &journal, &metrics));
            if let Err(error) = looked.await {
                error!(%error, "files of certificates could not be looked at; please report this");
            }
        }
    }

    fn reread(&self, patient: bool, journal: &Journal, metrics: &CertificateMetrics) -> Vec<(String, Rereading)> {
        let reread = |keyring: &Arc<dyn Reread>| {
            let (table, came) = (keyring.table(), keyring.reread(patient));
            match &came {
                Rereading::Same => {}
                Rereading::Loaded => {
                    let shown = keyring.certificate().map(|(_, certificate)| format!(": {certificate}"));
                    let message = format!(
                        "{table}: files have changed and hold for new connections{}",
                        shown.unwrap_or_default()
                    );
                    info!("{message}");
                    journal.note(Kind::CertificateLoaded, &message);
                    metrics.reloads.get_or_create(&ResultLabel { result: "loaded" }).inc();
                }
                Rereading::Refused(error) => {
                    error!(%error, "changed files can't be used; what was loaded before holds on, until it expires");
                    let message = format!("{error}; what was loaded before holds on, until it expires");
                    journal.note(Kind::CertificateRefused, &message);
                    metrics.reloads.get_or_create(&ResultLabel { result: "refused" }).inc();
                }
            }
            (table.to_owned(), came)
        };
        let came = self.keyrings.iter().map(reread).collect();
        metrics.tell(self);
        came
    }
}

fn cluster_files(table: String, tls: &ClusterTls) -> Files {
    let ClusterTls { ca, certificate, key, server_name: _ } = tls.clone();
    Files { table, certificate, key, ca, ca_key: "ca" }
}

fn proxy_files(tls: &ProxyTls) -> Files {
    let ProxyTls { certificate, key, client_auth: _, client_ca } = tls.clone();
    let table = "[proxy.tls]".to_owned();
    Files { table, certificate: Some(certificate), key: Some(key), ca: client_ca, ca_key: "client_ca" }
}

fn client_certificates(auth: ClientAuth) -> ClientCertificates {
    match auth {
        ClientAuth::None => ClientCertificates::Ignored,
        ClientAuth::Request => ClientCertificates::Asked,
        ClientAuth::Require => ClientCertificates::Required,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FileLabel {
    file: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// What is counted about our own certificates.
#[derive(Clone, Debug)]
pub struct CertificateMetrics {
    expiry: Family<FileLabel, Gauge>,
    reloads: Family<ResultLabel, Counter>,
}

impl CertificateMetrics {
    /// Adds these metrics to a registry whose prefix is `diffluent`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self { expiry: Family::default(), reloads: Family::default() };
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When a certificate of ours expires, in seconds since 1970, by its file",
            metrics.expiry.clone(),
        );
        registry.register(
            "certificate_reloads",
            "Changes of certificate files that were found, by what came of them",
            metrics.reloads.clone(),
        );
        for result in ["loaded", "refused"] {
            // Shown from the start, so that an alarm has something to compare with.
            let _ = metrics.reloads.get_or_create(&ResultLabel { result });
        }
        metrics
    }

    /// Shows what is loaded now.
    pub fn tell(&self, access: &Access) {
        for (file, certificate) in access.certificates() {
            self.expires(&file, certificate.not_after_seconds);
        }
    }

    pub(crate) fn expires(&self, file: &Path, at_seconds: i64) {
        let label = FileLabel { file: file.display().to_string() };
        self.expiry.get_or_create(&label).set(at_seconds);
    }
}
