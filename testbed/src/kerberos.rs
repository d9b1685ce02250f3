//! A Kerberos realm of its own: MIT's KDC on a loopback port, with keytabs for whom a test names. Nothing of it is known anywhere else.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::guard::{Guarded, TempDir};
use crate::packages;
use crate::ports::Ports;

const REALM: &str = "KAFKA.TEST";
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// A running realm. Stopped and removed when it is dropped.
#[derive(Debug)]
pub struct Realm {
    _kdc: Guarded,
    _port: Ports,
    dir: TempDir,
}

impl Realm {
    /// Starts it, and waits until it answers.
    ///
    /// # Errors
    /// When there is no KDC and none can be installed, or it does not start.
    pub async fn start() -> Result<Self> {
        packages::ensure("krb5kdc", "krb5-kdc")?;
        packages::ensure("kadmin.local", "krb5-admin-server")?;
        let (dir, port) = (TempDir::new("diffluent-kdc-")?, Ports::one()?);
        let (path, number) = (dir.path().display(), port.first());
        // TCP, so that what is lost is not asked for again after a second.
        let client = format!(
            "[libdefaults]\ndefault_realm = {REALM}\ndns_lookup_kdc = false\ndns_lookup_realm = false\nrdns = false\nudp_preference_limit = 1\n\
             [realms]\n{REALM} = {{\nkdc = 127.0.0.1:{number}\n}}\n[logging]\nkdc = FILE:{path}/requests.log\n"
        );
        let server = format!(
            "[kdcdefaults]\nkdc_listen = 127.0.0.1:{number}\nkdc_tcp_listen = 127.0.0.1:{number}\n\
             [realms]\n{REALM} = {{\ndatabase_name = {path}/principals\nkey_stash_file = {path}/stash\n}}\n"
        );
        for (name, text) in [("krb5.conf", client), ("kdc.conf", server)] {
            std::fs::write(dir.path().join(name), text).context("cannot write the realm's configuration")?;
        }
        run(dir.path(), "kdb5_util", &["create", "-s", "-r", REALM, "-P", "a-master-password"])?;
        let mut command = command(dir.path(), "krb5kdc");
        command.arg("-n");
        let mut kdc = Guarded::spawn("a KDC", command, &dir.path().join("kdc.log"))?;
        let since = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", number)).await.is_err() {
            if let Some(status) = kdc.try_status() {
                bail!("the KDC ended ({status}): {}", kdc.log_tail());
            }
            ensure!(since.elapsed() < READY_DEADLINE, "the KDC does not listen: {}", kdc.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { _kdc: kdc, _port: port, dir })
    }

    /// The option by which Java knows the realm.
    pub fn java_option(&self) -> String {
        format!("-Djava.security.krb5.conf={}", self.dir.path().join("krb5.conf").display())
    }

    /// What the KDC has been asked, and what it has answered.
    ///
    /// # Errors
    /// When its log can't be read.
    pub fn log(&self) -> Result<String> {
        std::fs::read_to_string(self.dir.path().join("requests.log")).context("the KDC has no log")
    }

    /// A principal with a random key, in a keytab: what `sasl.jaas.config` says to be it. `kafka/HOST` is a broker's.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn jaas(&self, principal: &str) -> Result<String> {
        let keytab: PathBuf = self.dir.path().join(format!("{}.keytab", principal.replace('/', "_")));
        let path = keytab.display();
        for query in [format!("addprinc -randkey {principal}"), format!("ktadd -k {path} {principal}")] {
            run(self.dir.path(), "kadmin.local", &["-r", REALM, "-q", &query])?;
        }
        ensure!(keytab.exists(), "no keytab of {principal}");
        Ok(format!(
            "com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true keyTab=\"{path}\" principal=\"{principal}@{REALM}\";"
        ))
    }
}

fn command(dir: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("KRB5_CONFIG", dir.join("krb5.conf"))
        .env("KRB5_KDC_PROFILE", dir.join("kdc.conf"))
        .stdin(Stdio::null());
    command
}

fn run(dir: &Path, program: &str, args: &[&str]) -> Result<()> {
    let output = command(dir, program).args(args).output().with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {args:?}: {said}");
    Ok(())
}
