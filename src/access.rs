//! How each configured cluster is reached, and how clients reach us: TLS, as the configuration says, and its files when they change.
//!
//! Owns the way from the configuration to a [`Dialer`] for each cluster and to the TLS that clients speak. It reads files and opens no socket; nothing here is
//! on the path of a byte. `run`, `check` and `verify` all take their connections from here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use crate::config::{ClientAuth, ClusterTls, Config, ProxyTls};
use crate::journal::{Journal, Kind};
use crate::net::Dialer;
use crate::net::tls::{Certificate, ClientCertificates, ClientTls, Files, Reread, Rereading, ServerTls, TlsError};

/// How often it is looked whether a file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Files that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct AccessError(pub Vec<TlsError>);

/// Something made from files that is read again with them.
type Rereads = Arc<dyn Reread>;

/// The way to one cluster: plaintext, or TLS as a table of the configuration says.
#[derive(Clone)]
struct Way {
    tls: Option<ClusterTls>,
    dialer: Dialer,
    keyring: Option<Rereads>,
}

impl Way {
    /// Reads the files of `tls`, if that is there; `table` is what it is called in messages.
    fn load(table: String, tls: Option<&ClusterTls>) -> Result<Self, TlsError> {
        let Some(tls) = tls else { return Ok(Self { tls: None, dialer: Dialer::plain(), keyring: None }) };
        let loaded = ClientTls::load(cluster_files(table, tls), tls.server_name.as_deref())?;
        let keyring: Rereads = loaded.keyring();
        Ok(Self { tls: Some(tls.clone()), dialer: Dialer::tls(Arc::new(loaded)), keyring: Some(keyring) })
    }
}

/// The ways to regions, by their names: [`Access::ways`].
#[derive(Clone, Default)]
pub struct Ways(HashMap<String, Way>);

impl std::fmt::Debug for Ways {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Ways {
    /// The ways to the regions of `config`. Those that are in `known` and are configured alike are taken over with what they have loaded.
    fn load(config: &Config, known: &Ways, errors: &mut Vec<TlsError>) -> Self {
        let mut ways = HashMap::new();
        for region in &config.region {
            let name = region.name.to_string();
            if let Some(way) = known.0.get(&name).filter(|way| way.tls == region.tls) {
                ways.insert(name, way.clone());
                continue;
            }
            match Way::load(format!("[region.tls] of {name:?}"), region.tls.as_ref()) {
                Ok(way) => drop(ways.insert(name, way)),
                Err(error) => errors.push(error),
            }
        }
        Self(ways)
    }
}

/// The ways to all clusters, and of clients to us.
pub struct Access {
    clients: Option<Arc<ServerTls>>,
    local: Way,
    regions: ArcSwap<Ways>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("clients", &self.clients)
            .field("local", &self.local.dialer)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// Reads all files that `config` names.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(config: &Config) -> Result<Self, AccessError> {
        let mut errors = Vec::new();
        let clients = config.proxy.tls.as_ref().and_then(|tls| {
            let loaded = ServerTls::load(proxy_files(tls), client_certificates(tls.client_auth));
            loaded.map(Arc::new).map_err(|error| errors.push(error)).ok()
        });
        let local = Way::load("[local.tls]".to_owned(), config.local.tls.as_ref());
        let local = local.map_err(|error| errors.push(error)).ok();
        let regions = Ways::load(config, &Ways::default(), &mut errors);
        match local {
            Some(local) if errors.is_empty() => Ok(Self { clients, local, regions: ArcSwap::from_pointee(regions) }),
            _ => Err(AccessError(errors)),
        }
    }

    /// The ways to the regions of another configuration, which hold once they are [taken](Self::take). Files of what is configured as before are not read.
    ///
    /// # Errors
    /// What is wrong with the others.
    pub fn ways(&self, config: &Config) -> Result<Ways, AccessError> {
        let mut errors = Vec::new();
        let ways = Ways::load(config, &self.regions.load(), &mut errors);
        if errors.is_empty() { Ok(ways) } else { Err(AccessError(errors)) }
    }

    /// From now on regions are reached in these ways. Connections that are there stay as they are.
    pub fn take(&self, ways: Ways) {
        self.regions.store(Arc::new(ways));
    }

    /// What clients speak; `None`: plaintext.
    pub fn clients(&self) -> Option<Arc<ServerTls>> {
        self.clients.clone()
    }

    /// The way to the local cluster.
    pub fn local(&self) -> Dialer {
        self.local.dialer.clone()
    }

    /// The way to a region, by its name.
    pub fn region(&self, name: &str) -> Dialer {
        self.regions.load().0.get(name).map(|way| way.dialer.clone()).unwrap_or_default()
    }

    /// The files of our own certificates, each with what was loaded from it last.
    pub fn certificates(&self) -> Vec<(PathBuf, Arc<Certificate>)> {
        let all: BTreeMap<_, _> = self.keyrings().iter().filter_map(|keyring| keyring.certificate()).collect();
        all.into_iter().collect()
    }

    /// What is made from files: for clients, for the local cluster, for the regions by name.
    fn keyrings(&self) -> Vec<Rereads> {
        let regions = self.regions.load();
        let by_name: BTreeMap<&String, &Way> = regions.0.iter().collect();
        let clients = self.clients.iter().map(|tls| -> Rereads { tls.keyring() });
        let clusters = [&self.local].into_iter().chain(by_name.into_values());
        clients.chain(clusters.filter_map(|way| way.keyring.clone())).collect()
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
        let reread = |keyring: &Rereads| {
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
        let came = self.keyrings().iter().map(reread).collect();
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

impl FileLabel {
    fn of(file: &Path) -> Self {
        Self { file: file.display().to_string() }
    }
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
    /// The files that have a series.
    shown: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl CertificateMetrics {
    /// Adds these metrics to a registry whose prefix is `diffluent`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self { expiry: Family::default(), reloads: Family::default(), shown: Arc::default() };
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

    /// Shows what is loaded now, and nothing of files that are not used any more.
    pub fn tell(&self, access: &Access) {
        let certificates = access.certificates();
        for (file, certificate) in &certificates {
            self.expires(file, certificate.not_after_seconds);
        }
        let now: BTreeSet<PathBuf> = certificates.into_iter().map(|(file, _)| file).collect();
        // A set of names is whole after a panic as before it.
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.difference(&now) {
            self.expiry.remove(&FileLabel::of(gone));
        }
        *shown = now;
    }

    pub(crate) fn expires(&self, file: &Path, at_seconds: i64) {
        self.expiry.get_or_create(&FileLabel::of(file)).set(at_seconds);
    }
}
