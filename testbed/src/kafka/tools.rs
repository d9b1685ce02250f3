//! Kafka's own command line tools as clients of one place: of the brokers, or of a proxy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::kafka::{Kafka, Output};

/// A tool starts in some seconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(90);

/// What stands for `bootstrap.servers` in a tool's arguments.
pub const HERE: &str = "HERE";

/// kafka-console-producer.
pub const CONSOLE_PRODUCER: &str = "org.apache.kafka.tools.ConsoleProducer";
/// kafka-console-consumer.
pub const CONSOLE_CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";

/// Tools that connect to one place.
#[derive(Clone, Debug)]
pub struct Tools {
    kafka: Kafka,
    bootstrap: String,
    config: Option<PathBuf>,
    options: Vec<String>,
}

impl Tools {
    /// Tools of this Kafka, for these `bootstrap.servers`.
    pub fn new(kafka: &Kafka, bootstrap: &str) -> Self {
        Self { kafka: kafka.clone(), bootstrap: bootstrap.to_owned(), config: None, options: Vec::new() }
    }

    /// With a file of settings (`--command-config`): how to log in, whom to trust.
    pub fn config(mut self, file: &Path) -> Self {
        self.config = Some(file.to_owned());
        self
    }

    /// With an option for Java.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// Runs a tool, which has to succeed. [`HERE`] in `args` becomes the place; where it is not in them, `--bootstrap-server` and the place stand before them.
    ///
    /// # Errors
    /// When it fails, or takes longer than 90 s.
    pub async fn run(&self, main_class: &str, args: &[&str], stdin: &str) -> Result<Output> {
        let output = self.attempt(main_class, args, stdin).await?;
        ensure!(output.success, "{main_class} {args:?}: {}\n{}", output.stdout, output.stderr);
        Ok(output)
    }

    /// As [`Tools::run`], whatever comes of it.
    ///
    /// # Errors
    /// When it can't be started, or takes longer than 90 s.
    pub async fn attempt(&self, main_class: &str, args: &[&str], stdin: &str) -> Result<Output> {
        let mut all: Vec<String> = args.iter().map(|arg| arg.replace(HERE, &self.bootstrap)).collect();
        if !args.iter().any(|arg| arg.contains(HERE)) {
            all.splice(0..0, ["--bootstrap-server".to_owned(), self.bootstrap.clone()]);
        }
        if let Some(config) = &self.config {
            all.extend(["--command-config".to_owned(), config.display().to_string()]);
        }
        let (options, all): (Vec<&str>, Vec<&str>) =
            (self.options.iter().map(String::as_str).collect(), all.iter().map(String::as_str).collect());
        self.kafka.tool_with(&options, main_class, &all, stdin, DEADLINE).await
    }

    /// Writes lines to a topic.
    ///
    /// # Errors
    /// When one is not acknowledged.
    pub async fn produce(&self, topic: &str, lines: &[String]) -> Result<()> {
        let input = lines.join("\n") + "\n";
        let said = self.run(CONSOLE_PRODUCER, &["--topic", topic], &input).await?;
        // It exits with 0 all the same.
        ensure!(!said.stderr.contains("ERROR"), "{}", said.stderr);
        Ok(())
    }

    /// Reads so many records of a topic from its beginning; sorted, as partitions have no order among them.
    ///
    /// # Errors
    /// When there are not so many.
    pub async fn consume(&self, topic: &str, count: usize, more: &[&str]) -> Result<Vec<String>> {
        let max = count.to_string();
        let args = ["--topic", topic, "--from-beginning", "--max-messages", &max, "--timeout-ms", "60000"];
        let read = self.run(CONSOLE_CONSUMER, &[&args, more].concat(), "").await?;
        let mut lines: Vec<String> = read.stdout.lines().map(str::to_owned).collect();
        ensure!(lines.len() == count, "{} records of {count} in {topic}: {}", lines.len(), read.stderr);
        lines.sort_unstable();
        Ok(lines)
    }

    /// Writes lines and reads them again, from a topic that has so many others already.
    ///
    /// # Errors
    /// When one is missing, or is another one.
    pub async fn round_trip(&self, topic: &str, others: usize) -> Result<()> {
        let lines: Vec<String> = (0..50).map(|number| format!("java {number:04}")).collect();
        self.produce(topic, &lines).await?;
        let mut read = self.consume(topic, others + lines.len(), &[]).await?;
        read.retain(|line| line.starts_with("java "));
        ensure!(read == lines, "{topic}: {read:?}");
        Ok(())
    }
}
