//! A broker's plugin that takes clients' telemetry (KIP-714), compiled here: brokers offer its APIs only where they have one.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::guard::TempDir;
use crate::kafka::{ClusterBuilder, Kafka, java};

const CLASS: &str = "testbed.Telemetry";
/// The broker's property that names the file.
const FILE: &str = "testbed.telemetry.file";

const SOURCE: &str = r#"package testbed;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.metrics.KafkaMetric;
import org.apache.kafka.common.metrics.MetricsReporter;
import org.apache.kafka.server.authorizer.AuthorizableRequestContext;
import org.apache.kafka.server.telemetry.ClientTelemetry;
import org.apache.kafka.server.telemetry.ClientTelemetryPayload;
import org.apache.kafka.server.telemetry.ClientTelemetryReceiver;

/** Writes a line for each push: the client's id, and how many bytes of metrics it has sent. */
public final class Telemetry implements MetricsReporter, ClientTelemetry, ClientTelemetryReceiver {
    private volatile Path file;

    @Override public void configure(Map<String, ?> configs) {
        if (configs.get("testbed.telemetry.file") != null) file = Path.of(configs.get("testbed.telemetry.file").toString());
    }

    @Override public void init(List<KafkaMetric> metrics) { }
    @Override public void metricChange(KafkaMetric metric) { }
    @Override public void metricRemoval(KafkaMetric metric) { }
    @Override public void close() { }
    @Override public ClientTelemetryReceiver clientReceiver() { return this; }

    @Override public void exportMetrics(AuthorizableRequestContext context, ClientTelemetryPayload payload) {
        String line = context.clientId() + " " + payload.data().remaining() + "\n";
        try {
            Files.writeString(file, line, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
"#;

/// The plugin, compiled, and the file in which it writes down what it gets.
#[derive(Debug)]
pub struct Telemetry {
    dir: TempDir,
}

impl Telemetry {
    /// Compiles it for this release.
    ///
    /// # Errors
    /// When there is no Java compiler and none can be installed.
    pub fn compile(kafka: &Kafka) -> Result<Self> {
        java::ensure_compiler()?;
        let dir = TempDir::new("diffluent-telemetry-")?;
        let source = dir.path().join("Telemetry.java");
        std::fs::write(&source, SOURCE).context("cannot write the plugin")?;
        let mut command = Command::new(java::program("javac"));
        // Newer releases call it deprecated, and have it.
        command.args(["-nowarn", "-cp", kafka.class_path(), "-d"]).arg(Self::classes(&dir)).arg(&source);
        let output = command.stdin(Stdio::null()).output().context("cannot run javac")?;
        ensure!(output.status.success(), "javac: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { dir })
    }

    fn classes(dir: &TempDir) -> PathBuf {
        dir.path().join("classes")
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("received")
    }

    /// What has been pushed by clients of this id: the bytes of each push.
    ///
    /// # Errors
    /// When the file holds something else.
    pub fn received(&self, client_id: &str) -> Result<Vec<usize>> {
        // No push, no file.
        let text = std::fs::read_to_string(self.file()).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let of_client =
            whole.lines().filter_map(|line| line.rsplit_once(' ')).filter(|(client, _)| *client == client_id);
        of_client.map(|(_, bytes)| bytes.parse().with_context(|| format!("{bytes:?} is no number"))).collect()
    }
}

impl ClusterBuilder {
    /// Gives the brokers the plugin. It must live as long as they do.
    pub fn telemetry(self, plugin: &Telemetry) -> Self {
        let file = plugin.file().display().to_string();
        self.classes(&Telemetry::classes(&plugin.dir)).config("metric.reporters", CLASS).config(FILE, &file)
    }
}
