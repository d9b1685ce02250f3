//! From a definition's JSON to fields.

use std::collections::HashMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::{Field, Kind, Message, Versions};

const NONE: Versions = Versions { min: 1, max: 0 };

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMessage {
    api_key: Option<i16>,
    name: String,
    valid_versions: String,
    flexible_versions: Option<String>,
    #[serde(default)]
    listeners: Vec<String>,
    #[serde(default)]
    fields: Vec<RawField>,
    #[serde(default)]
    common_structs: Vec<RawStruct>,
}

#[derive(Debug, Deserialize)]
struct RawStruct {
    name: String,
    fields: Vec<RawField>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawField {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    versions: Option<String>,
    nullable_versions: Option<String>,
    tagged_versions: Option<String>,
    tag: Option<Value>,
    default: Option<Value>,
    fields: Option<Vec<RawField>>,
}

/// Key, name and message; `None` for what is no request or response, or has no version left.
pub(super) fn message(text: &str) -> Result<Option<(i16, String, Message)>> {
    // By way of a value: a few definitions give a field's versions twice.
    let value: Value = serde_json::from_str(&without_comments(text))?;
    let raw: RawMessage = serde_json::from_value(value)?;
    let Some(key) = raw.api_key else { return Ok(None) };
    let valid = versions(&raw.valid_versions)?;
    if valid.min > valid.max {
        return Ok(None);
    }
    let common: HashMap<&str, &[RawField]> =
        raw.common_structs.iter().map(|common| (common.name.as_str(), common.fields.as_slice())).collect();
    let flexible = raw.flexible_versions.as_deref().map_or(Ok(NONE), versions)?;
    let fields = raw.fields.iter().map(|field| self::field(field, &common)).collect::<Result<_>>()?;
    let on_brokers = raw.listeners.iter().any(|listener| listener == "broker");
    Ok(Some((key, raw.name, Message { on_brokers, versions: valid, flexible, fields })))
}

fn field(raw: &RawField, common: &HashMap<&str, &[RawField]>) -> Result<Field> {
    let optional = |text: &Option<String>| text.as_deref().map_or(Ok(NONE), versions);
    let versions = raw.versions.as_deref().with_context(|| format!("{} has no versions", raw.name))?;
    let tag = match &raw.tag {
        // In quotes, here and there.
        Some(tag) => Some((tag.to_string().trim_matches('"').parse()?, optional(&raw.tagged_versions)?)),
        None => None,
    };
    Ok(Field {
        name: raw.name.clone(),
        kind: kind(&raw.kind, raw, common)?,
        versions: self::versions(versions)?,
        nullable: optional(&raw.nullable_versions)?,
        tag,
        default: raw.default.clone(),
    })
}

fn kind(name: &str, raw: &RawField, common: &HashMap<&str, &[RawField]>) -> Result<Kind> {
    if let Some(element) = name.strip_prefix("[]") {
        return Ok(Kind::Array(Box::new(kind(element, raw, common)?)));
    }
    Ok(match name {
        "bool" => Kind::Bool,
        "int8" => Kind::Int8,
        "int16" => Kind::Int16,
        "uint16" => Kind::Uint16,
        "int32" => Kind::Int32,
        "int64" => Kind::Int64,
        "float64" => Kind::Float64,
        "uuid" => Kind::Uuid,
        "string" => Kind::String,
        "bytes" | "records" => Kind::Bytes,
        of_struct => {
            let here = raw.fields.as_deref().or_else(|| common.get(of_struct).copied());
            let fields = here.with_context(|| format!("{} is of the unknown type {of_struct}", raw.name))?;
            Kind::Struct(fields.iter().map(|inside| field(inside, common)).collect::<Result<_>>()?)
        }
    })
}

/// `3`, `1-4`, `2+` or `none`.
fn versions(text: &str) -> Result<Versions> {
    let number = |part: &str| part.trim().parse::<i16>().with_context(|| format!("versions {text:?}"));
    if text == "none" {
        return Ok(NONE);
    }
    if let Some(min) = text.strip_suffix('+') {
        return Ok(Versions { min: number(min)?, max: i16::MAX });
    }
    match text.split_once('-') {
        Some((min, max)) => Ok(Versions { min: number(min)?, max: number(max)? }),
        None => Ok(Versions { min: number(text)?, max: number(text)? }),
    }
}

/// JSON has no comments; Kafka's definitions have, up to the line's end.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut in_string = false;
        let mut end = line.len();
        for (at, found) in line.char_indices() {
            match found {
                // No definition has an escaped quote.
                '"' => in_string = !in_string,
                '/' if !in_string && line[at..].starts_with("//") => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        out.push_str(&line[..end]);
        out.push('\n');
    }
    out
}
