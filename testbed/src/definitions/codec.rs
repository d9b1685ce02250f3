//! Messages to bytes and back, along their definitions.
//!
//! # References
//! Kafka's protocol guide; KIP-482 for flexible versions: compact lengths and tagged fields.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use data_encoding::HEXLOWER;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Field, Kind, Message, UNKNOWN_TAGS};

pub(super) fn encode(message: &Message, version: i16, fields: &Value) -> Result<Bytes> {
    let mut out = BytesMut::new();
    let format = Format { version, flexible: message.flexible.contains(version) };
    format.put_struct(&mut out, &message.fields, fields)?;
    Ok(out.freeze())
}

pub(super) fn decode(message: &Message, version: i16, body: &[u8]) -> Result<Value> {
    let mut rest = body;
    let format = Format { version, flexible: message.flexible.contains(version) };
    let value = format.get_struct(&mut rest, &message.fields)?;
    ensure!(rest.is_empty(), "{} bytes too many behind {value}", rest.len());
    Ok(value)
}

pub(super) fn check(fields: &[Field], value: &Value) -> Result<()> {
    for (name, value) in value.as_object().into_iter().flatten() {
        let field =
            fields.iter().find(|field| field.name == *name).with_context(|| format!("there is no field {name}"))?;
        match &field.kind {
            Kind::Struct(inside) => check(inside, value)?,
            Kind::Array(element) => {
                if let Kind::Struct(inside) = &**element {
                    value.as_array().into_iter().flatten().try_for_each(|value| check(inside, value))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// How a version of a message is written.
#[derive(Clone, Copy, Debug)]
struct Format {
    version: i16,
    flexible: bool,
}

impl Format {
    fn is_tagged(self, field: &Field) -> Option<u32> {
        field.tag.filter(|(_, versions)| versions.contains(self.version)).map(|(tag, _)| tag)
    }

    fn put_struct(self, out: &mut BytesMut, fields: &[Field], value: &Value) -> Result<()> {
        let given = value.as_object().with_context(|| format!("{value} is no object"))?;
        let mut tagged = BTreeMap::new();
        for field in fields.iter().filter(|field| field.versions.contains(self.version)) {
            let value = given.get(&field.name);
            let bytes = match self.is_tagged(field) {
                Some(tag) => match value {
                    Some(_) => tagged.entry(tag).or_insert_with(BytesMut::new),
                    // Defaults are not sent.
                    None => continue,
                },
                None => &mut *out,
            };
            let default = self.default(field);
            self.put(bytes, field, value.unwrap_or(&default)).with_context(|| field.name.clone())?;
        }
        if self.flexible {
            put_uvarint(out, tagged.len())?;
            for (tag, bytes) in tagged {
                put_uvarint(out, usize::try_from(tag)?)?;
                put_uvarint(out, bytes.len())?;
                out.put_slice(&bytes);
            }
        }
        Ok(())
    }

    fn default(self, field: &Field) -> Value {
        match (&field.default, &field.kind) {
            (Some(Value::String(null)), _) if null == "null" => Value::Null,
            // Numbers may stand in quotes, and be hexadecimal.
            (Some(Value::String(text)), Kind::String | Kind::Uuid) => Value::from(text.clone()),
            (Some(Value::String(text)), Kind::Bool) => Value::from(text == "true"),
            (Some(Value::String(text)), _) => match text.strip_prefix("0x") {
                Some(hexadecimal) => i64::from_str_radix(hexadecimal, 16).map_or(Value::Null, Value::from),
                None => text.parse::<i64>().map_or(Value::Null, Value::from),
            },
            (Some(value), _) => value.clone(),
            (None, Kind::Bool) => Value::from(false),
            (None, Kind::Float64) => Value::from(0.0),
            (None, Kind::Uuid) => Value::from(Uuid::nil().to_string()),
            (None, Kind::String | Kind::Bytes) => Value::from(""),
            (None, Kind::Array(_)) => Value::Array(Vec::new()),
            (None, Kind::Struct(_)) => Value::Object(Map::new()),
            (None, _) => Value::from(0),
        }
    }

    fn put(self, out: &mut BytesMut, field: &Field, value: &Value) -> Result<()> {
        let nullable = field.nullable.contains(self.version);
        if !value.is_null() {
            if nullable && matches!(field.kind, Kind::Struct(_)) {
                out.put_i8(1);
            }
            return self.put_kind(out, &field.kind, value);
        }
        ensure!(nullable, "null, in a version without");
        match field.kind {
            Kind::Struct(_) => out.put_i8(-1),
            _ if self.flexible => out.put_u8(0),
            Kind::String => out.put_i16(-1),
            Kind::Bytes | Kind::Array(_) => out.put_i32(-1),
            _ => bail!("can't be null"),
        }
        Ok(())
    }

    fn put_kind(self, out: &mut BytesMut, kind: &Kind, value: &Value) -> Result<()> {
        let number = || value.as_i64().with_context(|| format!("{value} is no number"));
        let text = || value.as_str().with_context(|| format!("{value} is no text"));
        match kind {
            Kind::Bool => out.put_u8(u8::from(value.as_bool().with_context(|| format!("{value} is no bool"))?)),
            Kind::Int8 => out.put_i8(i8::try_from(number()?)?),
            Kind::Int16 => out.put_i16(i16::try_from(number()?)?),
            Kind::Uint16 => out.put_u16(u16::try_from(number()?)?),
            Kind::Int32 => out.put_i32(i32::try_from(number()?)?),
            Kind::Int64 => out.put_i64(number()?),
            Kind::Float64 => out.put_f64(value.as_f64().with_context(|| format!("{value} is no number"))?),
            Kind::Uuid => out.put_slice(Uuid::parse_str(text()?)?.as_bytes()),
            Kind::String => {
                self.put_length(out, text()?.len(), true)?;
                out.put_slice(text()?.as_bytes());
            }
            Kind::Bytes => {
                let bytes = HEXLOWER.decode(text()?.as_bytes()).context("not hexadecimal")?;
                self.put_length(out, bytes.len(), false)?;
                out.put_slice(&bytes);
            }
            Kind::Array(element) => {
                let values = value.as_array().with_context(|| format!("{value} is no array"))?;
                self.put_length(out, values.len(), false)?;
                for value in values {
                    self.put_kind(out, element, value)?;
                }
            }
            Kind::Struct(fields) => self.put_struct(out, fields, value)?,
        }
        Ok(())
    }

    fn put_length(self, out: &mut BytesMut, length: usize, of_string: bool) -> Result<()> {
        if self.flexible {
            return put_uvarint(out, length + 1);
        }
        if of_string {
            out.put_i16(i16::try_from(length)?);
        } else {
            out.put_i32(i32::try_from(length)?);
        }
        Ok(())
    }

    fn get_struct(self, rest: &mut &[u8], fields: &[Field]) -> Result<Value> {
        let mut found = Map::new();
        let there = || fields.iter().filter(|field| field.versions.contains(self.version));
        for field in there().filter(|field| self.is_tagged(field).is_none()) {
            let value = self.get(rest, field).with_context(|| field.name.clone())?;
            found.insert(field.name.clone(), value);
        }
        if self.flexible {
            let mut unknown = Map::new();
            for _ in 0..get_uvarint(rest)? {
                let (tag, size) = (get_uvarint(rest)?, get_uvarint(rest)?);
                let mut inside = take(rest, size)?;
                match there().find(|field| self.is_tagged(field).is_some_and(|known| known as usize == tag)) {
                    Some(field) => {
                        let value = self.get(&mut inside, field).with_context(|| field.name.clone())?;
                        ensure!(inside.is_empty(), "{} is longer than its size says", field.name);
                        found.insert(field.name.clone(), value);
                    }
                    None => drop(unknown.insert(tag.to_string(), HEXLOWER.encode(inside).into())),
                }
            }
            if !unknown.is_empty() {
                found.insert(UNKNOWN_TAGS.to_owned(), Value::Object(unknown));
            }
        }
        Ok(Value::Object(found))
    }

    fn get(self, rest: &mut &[u8], field: &Field) -> Result<Value> {
        if field.nullable.contains(self.version) && matches!(field.kind, Kind::Struct(_)) && rest.try_get_i8()? < 0 {
            return Ok(Value::Null);
        }
        self.get_kind(rest, &field.kind)
    }

    fn get_kind(self, rest: &mut &[u8], kind: &Kind) -> Result<Value> {
        Ok(match kind {
            Kind::Bool => Value::from(rest.try_get_u8()? != 0),
            Kind::Int8 => Value::from(rest.try_get_i8()?),
            Kind::Int16 => Value::from(rest.try_get_i16()?),
            Kind::Uint16 => Value::from(rest.try_get_u16()?),
            Kind::Int32 => Value::from(rest.try_get_i32()?),
            Kind::Int64 => Value::from(rest.try_get_i64()?),
            Kind::Float64 => Value::from(rest.try_get_f64()?),
            Kind::Uuid => Value::from(Uuid::from_slice(take(rest, 16)?)?.to_string()),
            Kind::String => match self.get_length(rest, true)? {
                Some(length) => Value::from(std::str::from_utf8(take(rest, length)?)?),
                None => Value::Null,
            },
            Kind::Bytes => match self.get_length(rest, false)? {
                Some(length) => Value::from(HEXLOWER.encode(take(rest, length)?)),
                None => Value::Null,
            },
            Kind::Array(element) => match self.get_length(rest, false)? {
                Some(count) => {
                    let mut values = Vec::new();
                    for _ in 0..count {
                        values.push(self.get_kind(rest, element)?);
                    }
                    Value::Array(values)
                }
                None => Value::Null,
            },
            Kind::Struct(fields) => self.get_struct(rest, fields)?,
        })
    }

    fn get_length(self, rest: &mut &[u8], of_string: bool) -> Result<Option<usize>> {
        if self.flexible {
            return Ok(get_uvarint(rest)?.checked_sub(1));
        }
        let length = if of_string { i32::from(rest.try_get_i16()?) } else { rest.try_get_i32()? };
        Ok(usize::try_from(length).ok())
    }
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(bytes).context("the message ends too early")?;
    *rest = left;
    Ok(taken)
}

fn put_uvarint(out: &mut BytesMut, value: usize) -> Result<()> {
    let mut value = u32::try_from(value)?;
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
    Ok(())
}

fn get_uvarint(rest: &mut &[u8]) -> Result<usize> {
    let mut value = 0_u64;
    for shift in [0, 7, 14, 21, 28] {
        let byte = rest.try_get_u8()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(usize::try_from(value)?);
        }
    }
    bail!("a length of more than five bytes")
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
    use kafka_protocol::messages::metadata_response::MetadataResponseBroker;
    use kafka_protocol::messages::{FetchRequest, MetadataResponse};
    use kafka_protocol::protocol::{Encodable, Message as _, StrBytes};
    use serde_json::json;

    use super::super::parse;
    use super::*;

    fn definition(text: &str) -> Result<Message> {
        Ok(parse::message(text)?.context("no message")?.2)
    }

    #[test]
    fn what_is_written_is_what_the_protocol_crate_writes() -> Result<()> {
        let text = r#"{
          "apiKey": 1, "type": "request", "name": "FetchRequest", // A comment, with "quotes".
          "validVersions": "4-18", "flexibleVersions": "12+",
          "fields": [
            { "name": "ClusterId", "type": "string", "versions": "12+", "nullableVersions": "12+", "default": "null", "taggedVersions": "12+", "tag": 0 },
            { "name": "ReplicaId", "type": "int32", "versions": "0-14", "default": "-1" },
            { "name": "MaxWaitMs", "type": "int32", "versions": "0+" },
            { "name": "MinBytes", "type": "int32", "versions": "0+" },
            { "name": "MaxBytes", "type": "int32", "versions": "3+", "default": "0x7fffffff" },
            { "name": "IsolationLevel", "type": "int8", "versions": "4+" },
            { "name": "SessionId", "type": "int32", "versions": "7+" },
            { "name": "SessionEpoch", "type": "int32", "versions": "7+", "default": "-1" },
            { "name": "Topics", "type": "[]FetchTopic", "versions": "0+", "fields": [
              { "name": "Topic", "type": "string", "versions": "0-12" },
              { "name": "TopicId", "type": "uuid", "versions": "13+" },
              { "name": "Partitions", "type": "[]FetchPartition", "versions": "0+", "fields": [
                { "name": "Partition", "type": "int32", "versions": "0+" },
                { "name": "CurrentLeaderEpoch", "type": "int32", "versions": "9+", "default": "-1" },
                { "name": "FetchOffset", "type": "int64", "versions": "0+" },
                { "name": "LastFetchedEpoch", "type": "int32", "versions": "12+", "default": "-1" },
                { "name": "LogStartOffset", "type": "int64", "versions": "5+", "default": "-1" },
                { "name": "PartitionMaxBytes", "type": "int32", "versions": "0+" }
              ]}
            ]},
            { "name": "ForgottenTopicsData", "type": "[]int32", "versions": "7+" },
            { "name": "RackId", "type": "string", "versions": "11+" }
          ]
        }"#;
        let message = definition(text)?;
        for version in FetchRequest::VERSIONS.min..=12 {
            let partition =
                FetchPartition::default().with_partition(3).with_fetch_offset(7).with_partition_max_bytes(9);
            let topic = FetchTopic::default()
                .with_topic(StrBytes::from_static_str("orders").into())
                .with_partitions(vec![partition]);
            let request = FetchRequest::default().with_max_wait_ms(5).with_topics(vec![topic]);
            let mut expected = BytesMut::new();
            request.encode(&mut expected, version)?;
            let fields = json!({ "MaxWaitMs": 5, "Topics": [{ "Topic": "orders", "TopicId": Uuid::nil().to_string(), "Partitions": [
                { "Partition": 3, "FetchOffset": 7, "PartitionMaxBytes": 9 }] }] });
            assert_eq!(encode(&message, version, &fields)?, expected, "version {version}");
        }
        assert!(check(&message.fields, &json!({ "Topics": [{ "TopicId": "" }] })).is_ok());
        assert!(check(&message.fields, &json!({ "Topics": [{ "TopicIds": "" }] })).is_err());
        Ok(())
    }

    #[test]
    fn what_the_protocol_crate_writes_is_read_by_name() -> Result<()> {
        let text = r#"{
          "apiKey": 3, "type": "response", "name": "MetadataResponse", "validVersions": "0-13", "flexibleVersions": "9+",
          "fields": [
            { "name": "ThrottleTimeMs", "type": "int32", "versions": "3+" },
            { "name": "Brokers", "type": "[]Broker", "versions": "0+", "fields": [
              { "name": "NodeId", "type": "int32", "versions": "0+" },
              { "name": "Host", "type": "string", "versions": "0+" },
              { "name": "Port", "type": "int32", "versions": "0+" },
              { "name": "Rack", "type": "string", "versions": "1+", "nullableVersions": "1+" }
            ]},
            { "name": "ClusterId", "type": "string", "nullableVersions": "2+", "versions": "2+" },
            { "name": "ControllerId", "type": "int32", "versions": "1+", "default": "-1" },
            { "name": "Topics", "type": "[]int32", "versions": "0+" }
          ]
        }"#;
        let message = definition(text)?;
        let broker = MetadataResponseBroker::default().with_node_id(7.into()).with_host("a".into()).with_port(9092);
        let answer = MetadataResponse::default().with_brokers(vec![broker]).with_cluster_id(Some("c".into()));
        for version in [2, 5, 9, 12] {
            let mut bytes = BytesMut::new();
            answer.encode(&mut bytes, version)?;
            if (8..=10).contains(&version) {
                // The operations allowed on the cluster, which this definition leaves out.
                let at = bytes.len() - if version >= 9 { 5 } else { 4 };
                let tail = bytes.split_off(at);
                bytes.extend_from_slice(&tail[4..]);
            }
            let read = decode(&message, version, &bytes)?;
            assert_eq!(read["Brokers"][0], json!({ "NodeId": 7, "Host": "a", "Port": 9092, "Rack": null }));
            assert_eq!((&read["ClusterId"], &read["ControllerId"]), (&json!("c"), &json!(-1)), "version {version}");
        }
        Ok(())
    }
}
