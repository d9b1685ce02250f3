//! One side of a comparison: the same script is played once at the brokers and once through the proxy, on twins of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use diffluent_testbed::Call;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::blank;
use crate::common::PATIENCE;
use crate::world::World;

/// Behind the names of what belongs to a side. Of one length, so that every length in an answer stays the same.
pub const TWINS: [&str; 2] = ["-1st", "-2nd"];

/// What stands for the end of a connection among answers.
pub const CLOSED: &str = "the connection is closed";

/// A client waits so long for an answer, and for its connection's end.
const DEADLINE: Duration = Duration::from_secs(20);

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// To this broker, or to its port at the proxy.
    Broker(i32),
    /// To the proxy's bootstrap port; directly: to the first broker.
    Bootstrap,
}

impl From<i32> for At {
    fn from(node_id: i32) -> Self {
        At::Broker(node_id)
    }
}

/// An answer, written down.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which request it answers.
    pub what: String,
    /// Its API and version.
    pub api: (i16, i16),
    /// The answer as it came.
    pub answer: Value,
    /// Its bytes, if its connection is the one under test.
    pub bytes: Option<Bytes>,
}

/// A side.
pub struct Side<'w> {
    /// What both sides share.
    pub world: &'w World,
    through: bool,
    connections: BTreeMap<(bool, At), Call>,
    /// Ids that brokers have handed out, and what they are called in both sides.
    ids: Vec<(String, String)>,
    /// In the order of the script.
    pub entries: Vec<Entry>,
    /// API keys and versions asked for on the connections under test.
    pub covered: BTreeSet<(i16, i16)>,
}

impl<'w> Side<'w> {
    /// The side at the brokers (`through` is false), or that behind the proxy.
    pub fn new(world: &'w World, through: bool) -> Self {
        let (connections, ids) = (BTreeMap::new(), Vec::new());
        Self { world, through, connections, ids, entries: Vec::new(), covered: BTreeSet::new() }
    }

    /// What the side calls its twin.
    pub fn name(&self, base: &str) -> String {
        format!("{base}{}", TWINS[usize::from(self.through)])
    }

    /// From now on, `id` is called `name` in what is compared.
    pub fn learn(&mut self, id: &str, name: &str) {
        self.ids.push((id.to_owned(), name.to_owned()));
    }

    /// The version of the API that is nearest to the wanted one among those that are offered.
    pub fn version(&self, api: &str, wanted: i16) -> Result<i16> {
        let api = self.world.definitions.named(api)?;
        let offered = self.world.versions(api.key)?;
        Ok(wanted.clamp(*offered.start(), *offered.end()))
    }

    async fn connection(&mut self, through: bool, at: At) -> Result<&mut Call> {
        let addr = match (through, at) {
            (false, At::Broker(node_id)) => self.world.eu.broker_addr(node_id)?,
            (false, At::Bootstrap) => self.world.eu.broker_addr(1)?,
            (true, At::Broker(node_id)) => self.world.broker_port(node_id)?,
            (true, At::Bootstrap) => self.world.proxy.bootstrap(),
        };
        match self.connections.entry((through, at)) {
            std::collections::btree_map::Entry::Occupied(there) => Ok(there.into_mut()),
            std::collections::btree_map::Entry::Vacant(place) => {
                Ok(place.insert(Call::connect(&addr).await?.deadline(DEADLINE)))
            }
        }
    }

    /// Sends a request, in the offered version nearest to `version`; answer and bytes. The end of the connection is an answer too.
    async fn exchange(
        &mut self,
        through: bool,
        at: At,
        api: &str,
        version: i16,
        fields: &Value,
    ) -> Result<(i16, Value, Bytes)> {
        let version = self.version(api, version)?;
        let api = self.world.definitions.named(api)?;
        self.world.newest.api(api.key)?.check(fields)?;
        let body = api.encode(version, fields)?;
        let answered = self.connection(through, at).await?.call_defined(api, version, &body).await;
        let bytes = match answered {
            Ok(bytes) => bytes,
            Err(error) => {
                let text = format!("{error:#}");
                ensure!(!text.contains("did not answer"), "{} v{version} at {at:?}: {text}: {fields}", api.name);
                self.connections.remove(&(through, at));
                return Ok((version, CLOSED.into(), Bytes::new()));
            }
        };
        let answer = api.decode(version, &bytes).with_context(|| format!("{at:?}, asked for {fields}"))?;
        Ok((version, answer, bytes))
    }

    /// Sends a request on the connection under test and writes its answer down.
    pub async fn ask(&mut self, at: impl Into<At>, api: &str, version: i16, fields: Value) -> Result<Value> {
        self.ask_until(at, api, version, fields, |_| true).await
    }

    /// As [`Side::ask`], again and again until the answer is the one that is waited for, which alone is written down.
    pub async fn ask_until(
        &mut self,
        at: impl Into<At>,
        api: &str,
        version: i16,
        fields: Value,
        done: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let at = at.into();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (version, answer, bytes) = self.exchange(self.through, at, api, version, &fields).await?;
            // Before any check: what a broken answer leaks is worth knowing.
            if self.through && !tells_its_configuration(api, &fields) {
                let found = self.world.assert_no_leak(&bytes);
                found.with_context(|| format!("{api} v{version} at {at:?}: {fields}: {answer}"))?;
            }
            if done(&answer) {
                let key = self.world.definitions.named(api)?.key;
                self.covered.insert((key, version));
                let what = format!("{api} v{version} at {at:?}: {fields}");
                self.write_down(what, (key, version), answer.clone(), Some(bytes));
                return Ok(answer);
            }
            ensure!(Instant::now() < deadline, "{api} v{version} at {at:?} comes to nothing: {fields}: {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a request on the connection under test, one of several attempts of which nothing is written down.
    pub async fn attempt(&mut self, at: impl Into<At>, api: &str, version: i16, fields: &Value) -> Result<Value> {
        Ok(self.exchange(self.through, at.into(), api, version, fields).await?.1)
    }

    /// Sends a request that gets no answer.
    pub async fn tell(&mut self, at: impl Into<At>, api: &str, version: i16, fields: Value) -> Result<()> {
        let version = self.version(api, version)?;
        let api = self.world.definitions.named(api)?;
        let mut frame = BytesMut::new();
        frame.put_i16(api.key);
        frame.put_i16(version);
        // Answers to it would be taken for those of another request.
        frame.put_i32(-1);
        frame.put_i16(-1);
        if api.is_flexible(version) {
            frame.put_u8(0);
        }
        frame.put_slice(&api.encode(version, &fields)?);
        self.covered.insert((api.key, version));
        self.connection(self.through, at.into()).await?.send_frame(&frame).await
    }

    /// Looks at what has come of it, always directly, and writes that down.
    pub async fn look(&mut self, node_id: i32, api: &str, fields: Value) -> Result<Value> {
        self.look_until(node_id, api, fields, |_| true).await
    }

    /// As [`Side::look`], again and again until it is what is waited for, which alone is written down.
    pub async fn look_until(
        &mut self,
        node_id: i32,
        api: &str,
        fields: Value,
        done: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (version, answer, _) = self.exchange(false, At::Broker(node_id), api, i16::MAX, &fields).await?;
            if done(&answer) {
                let key = self.world.definitions.named(api)?.key;
                self.write_down(format!("afterwards {api} v{version}: {fields}"), (key, version), answer.clone(), None);
                return Ok(answer);
            }
            ensure!(Instant::now() < deadline, "{api} v{version} at {node_id} comes to nothing: {fields}: {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all brokers show the topic with so many partitions that have leaders; its id. Written down is nothing.
    pub async fn until_topic(&mut self, topic: &str, partitions: usize) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let fields = json!({ "Topics": [{ "Name": topic }], "AllowAutoTopicCreation": false });
        let mut id = String::new();
        for node_id in self.world.eu.broker_ids() {
            loop {
                let (_, answer, _) = self.exchange(false, At::Broker(node_id), "Metadata", 12, &fields).await?;
                let found = &answer["Topics"][0];
                let led = |partitions: &Vec<Value>| partitions.iter().all(|one| one["LeaderId"].as_i64() >= Some(0));
                if found["Partitions"].as_array().is_some_and(|there| there.len() == partitions && led(there)) {
                    id = text(&found["TopicId"])?;
                    break;
                }
                ensure!(Instant::now() < deadline, "broker {node_id} has no {topic} with {partitions}: {answer}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(id)
    }

    fn write_down(&mut self, what: String, api: (i16, i16), answer: Value, bytes: Option<Bytes>) {
        self.entries.push(Entry { what, api, answer, bytes });
    }

    fn blanked(&self, entry: &Entry) -> Value {
        let places = if self.through && entry.bytes.is_some() { &self.world.told } else { &self.world.direct };
        blank::answer(&entry.answer, places, &self.ids, self.through)
    }
}

/// A broker's own configuration tells its listeners. That is what was asked for, and nothing that a client dials.
fn tells_its_configuration(api: &str, fields: &Value) -> bool {
    const RESOURCE_BROKER: i64 = 4;
    let of_broker = |resources: &Vec<Value>| resources.iter().any(|one| one["ResourceType"] == RESOURCE_BROKER);
    api == "DescribeConfigs" && fields["Resources"].as_array().is_some_and(of_broker)
}

/// A text in an answer.
pub fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().with_context(|| format!("{value} is no text"))?.to_owned())
}

/// A number in an answer.
pub fn number(value: &Value) -> Result<i64> {
    value.as_i64().with_context(|| format!("{value} is no number"))
}

/// Compares what both sides have written down.
pub fn compare(direct: &Side<'_>, through: &Side<'_>) -> Result<()> {
    for (at_broker, at_proxy) in direct.entries.iter().zip(&through.entries) {
        let (a, b) = (direct.blanked(at_broker), through.blanked(at_proxy));
        if a != b {
            let differs = blank::difference(&a, &b);
            bail!("{}\nthrough the proxy: {b}\nat the broker:     {a}\nof which differs:  {differs}", at_proxy.what);
        }
        // Where nothing had to be blanked, not a byte may differ either.
        if at_broker.answer == at_proxy.answer {
            ensure!(at_broker.bytes == at_proxy.bytes, "{}: equal, but written in other bytes", at_proxy.what);
        }
    }
    ensure!(
        direct.entries.len() == through.entries.len(),
        "{} answers through the proxy instead of {}",
        through.entries.len(),
        direct.entries.len()
    );
    Ok(())
}
