//! What may differ between an answer of the cluster and the same answer through the proxy, or between twins, in one place.

use data_encoding::HEXLOWER;
use serde_json::{Map, Value};

use crate::side::TWINS;
use crate::world::Places;

/// The name of all twins.
const TWIN: &str = "-any";

/// An answer with everything blanked that may differ:
///
/// - host and port, where they are those of the right broker in `places` (others stay and so are found by the comparison);
/// - names of twins, ids that brokers have handed out (`ids`: id and what to call it), and entries that belong to the other twin;
/// - what each call makes anew: throttle times, times of appending, session ids, the controller that a KRaft broker happens to name, free space on disks,
///   the progress of the controllers' own log;
/// - the order of lists, which brokers keep in hash maps. (Where an answer needs no blanking at all, its bytes are compared.)
pub fn answer(answer: &Value, places: &Places, ids: &[(String, String)], through: bool) -> Value {
    let [mine, others] = if through { [TWINS[1], TWINS[0]] } else { TWINS };
    Blank { places, ids, mine, others }.value("", answer).unwrap_or(Value::Null)
}

struct Blank<'a> {
    places: &'a Places,
    ids: &'a [(String, String)],
    mine: &'a str,
    others: &'a str,
}

impl Blank<'_> {
    /// `None`: it belongs to the other twin.
    fn value(&self, name: &str, value: &Value) -> Option<Value> {
        match value {
            Value::Object(fields) => {
                let mut blanked = Map::new();
                for (name, value) in fields {
                    blanked.insert(name.clone(), self.value(name, value)?);
                }
                self.address(fields, &mut blanked);
                if fields.contains_key("CurrentVoters") {
                    blanked.insert("HighWatermark".to_owned(), 0.into());
                }
                Some(Value::Object(blanked))
            }
            Value::Array(values) => {
                let mut kept: Vec<Value> = values.iter().filter_map(|value| self.value(name, value)).collect();
                if kept.iter().any(Value::is_object) {
                    kept.sort_by_cached_key(Value::to_string);
                }
                Some(Value::Array(kept))
            }
            Value::String(text) => self.text(name, text).map(Value::String),
            Value::Number(number) => Some(self.number(name, number)),
            other => Some(other.clone()),
        }
    }

    fn address(&self, fields: &Map<String, Value>, blanked: &mut Map<String, Value>) {
        let node_id = ["NodeId", "BrokerId"].iter().find_map(|name| fields.get(*name)).and_then(Value::as_i64);
        let (Some(node_id), Some(Value::String(host)), Some(port)) = (node_id, fields.get("Host"), fields.get("Port"))
        else {
            return;
        };
        let place = i32::try_from(node_id).ok().and_then(|node_id| self.places.get(&node_id));
        if let Some((told_host, told_port)) = place
            && told_host == host
            && port.as_u64() == Some(u64::from(*told_port))
        {
            blanked.insert("Host".to_owned(), "where clients are told".into());
            blanked.insert("Port".to_owned(), 0.into());
        }
    }

    fn text(&self, name: &str, text: &str) -> Option<String> {
        let mut text = text.to_owned();
        for (id, called) in self.ids {
            text = text.replace(id, called);
            // Ids of topics also stand among bytes.
            if let Ok(uuid) = uuid::Uuid::parse_str(id) {
                text = text.replace(&uuid.simple().to_string(), called);
            }
        }
        if name == "Records" {
            text = records(&text);
        }
        if let Some((before, number)) = text.split_once("Local controller ") {
            // The first one in a hash map that an update of features does not suit.
            text = format!("{before}a controller {}", number.trim_start_matches(|found: char| found.is_ascii_digit()));
        }
        let (mine, others) = (HEXLOWER.encode(self.mine.as_bytes()), HEXLOWER.encode(self.others.as_bytes()));
        if text.contains(self.others) || text.contains(&others) {
            return None;
        }
        Some(text.replace(self.mine, TWIN).replace(&mine, &HEXLOWER.encode(TWIN.as_bytes())))
    }

    fn number(&self, name: &str, number: &serde_json::Number) -> Value {
        let is_set = number.as_i64().is_some_and(|number| number > 0);
        let blank = match name {
            // A subscription's id is a checksum, over the client's id too.
            "ThrottleTimeMs" | "ControllerId" | "FinalizedFeaturesEpoch" | "LogEndOffset" | "SubscriptionId" => true,
            "SessionId" | "ProducerId" | "CurrentProducerId" => is_set,
            "LastTimestamp"
            | "LogAppendTimeMs"
            | "TransactionStartTimeMs"
            | "LastFetchTimestamp"
            | "LastCaughtUpTimestamp" => is_set,
            "TotalBytes" | "UsableBytes" => is_set,
            _ => false,
        };
        if blank { Value::from(0) } else { Value::Number(number.clone()) }
    }
}

/// Record batches, hexadecimal, without producer id and checksum; those of the broker's own (control batches) also without its time.
///
/// # References
/// The layout of a record batch: <https://kafka.apache.org/documentation/#recordbatch>.
fn records(hexadecimal: &str) -> String {
    const HEADER_BYTES: usize = 61;
    const CONTROL_BIT: u8 = 0x20;
    let Ok(mut bytes) = HEXLOWER.decode(hexadecimal.as_bytes()) else { return hexadecimal.to_owned() };
    let mut at = 0;
    while let Some(batch) = bytes.get_mut(at..)
        && let Some(length) = batch.get(8..12).and_then(|length| length.try_into().ok()).map(i32::from_be_bytes)
        && batch.len() >= HEADER_BYTES
        && batch[16] == 2
    {
        batch[17..21].fill(0);
        batch[43..51].fill(0);
        if batch[22] & CONTROL_BIT != 0 {
            batch[27..43].fill(0);
        }
        at += 12 + usize::try_from(length).unwrap_or(usize::MAX - at - 12);
    }
    HEXLOWER.encode(&bytes)
}

/// The first places at which two answers differ.
pub fn difference(direct: &Value, through: &Value) -> String {
    fn walk(path: &str, direct: &Value, through: &Value, found: &mut Vec<String>) {
        match (direct, through) {
            (Value::Object(a), Value::Object(b)) => {
                for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
                    let get = |fields: &Map<String, Value>| fields.get(name).cloned().unwrap_or("missing".into());
                    walk(&format!("{path}.{name}"), &get(a), &get(b), found);
                }
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (index, (a, b)) in a.iter().zip(b).enumerate() {
                    walk(&format!("{path}[{index}]"), a, b, found);
                }
            }
            (a, b) if a != b => found.push(format!("{path}: {b} instead of {a}")),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk("", direct, through, &mut found);
    found.truncate(5);
    found.join("; ")
}
