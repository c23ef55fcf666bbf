//! What a relay says of itself (NIP-11), as far as it changes what we ask. Nothing in it is believed beyond that: every
//! number is a hint that refusals may correct, and is cut to what makes sense before it is used.

use serde::{Deserialize, Serialize};

/// The part of a NIP-11 document that we use. Every field is optional in the wild, and of the wrong type here and there:
/// such a field counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RelayInfo {
    /// Subscriptions per connection.
    pub max_subscriptions: Option<u64>,
    /// Bytes of one message to the relay.
    pub max_message_length: Option<u64>,
    /// Largest `limit` that it honours; larger ones are cut, or refused.
    pub max_limit: Option<u64>,
    /// `limit` of a filter that names none.
    pub default_limit: Option<u64>,
    /// Characters of a subscription id.
    pub max_subid_length: Option<u64>,
    /// Whether it answers nobody who has not authenticated (NIP-42).
    pub auth_required: bool,
    /// NIPs it says it supports; `None` if it does not say.
    pub supported_nips: Option<Vec<u16>>,
    /// Whether it says that it is a GRASP service (`supported_grasps` is not empty): it holds git events only.
    pub is_grasp: bool,
}

impl RelayInfo {
    /// Reads a document. The caller bounds its size.
    ///
    /// # Errors
    ///
    /// If it is not a JSON object.
    pub fn from_json(json: &str) -> Result<RelayInfo, serde_json::Error> {
        use serde::de::Error as _;
        use serde_json::Value;

        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            limitation: Value,
            #[serde(default)]
            supported_nips: Value,
            #[serde(default)]
            supported_grasps: Value,
        }

        // serde would take an array for a struct as well.
        if !json.trim_start().starts_with('{') {
            return Err(serde_json::Error::custom("not an object"));
        }
        let document: Document = serde_json::from_str(json)?;
        let number = |name: &str| document.limitation.get(name).and_then(Value::as_u64).filter(|n| *n > 0);
        let nips = |values: &Vec<Value>| {
            let numbers = values.iter().filter_map(|value| value.as_u64().and_then(|n| u16::try_from(n).ok()));
            numbers.take(SUPPORTED_NIPS_MAX).collect()
        };
        Ok(RelayInfo {
            max_subscriptions: number("max_subscriptions"),
            max_message_length: number("max_message_length"),
            max_limit: number("max_limit"),
            default_limit: number("default_limit"),
            max_subid_length: number("max_subid_length"),
            auth_required: document.limitation.get("auth_required").and_then(Value::as_bool).unwrap_or(false),
            supported_nips: document.supported_nips.as_array().map(nips),
            is_grasp: document.supported_grasps.as_array().is_some_and(|grasps| !grasps.is_empty()),
        })
    }

    /// Whether it says that it supports a NIP; `None` if it says nothing about that.
    pub fn supports(&self, nip: u16) -> Option<bool> {
        self.supported_nips.as_ref().map(|nips| nips.contains(&nip))
    }
}

/// NIPs read of one document; the rest is ignored.
const SUPPORTED_NIPS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strfry_says() {
        let info = RelayInfo::from_json(
            r#"{"name":"x","supported_nips":[1,2,4,9,11,22,28,40,70,77],"software":"git+https://github.com/hoytech/strfry.git",
                "limitation":{"max_message_length":131072,"max_subscriptions":200,"max_limit":500}}"#,
        )
        .unwrap();
        assert_eq!(info.max_message_length, Some(131_072));
        assert_eq!(info.max_subscriptions, Some(200));
        assert_eq!(info.max_limit, Some(500));
        assert_eq!(info.supports(77), Some(true));
        assert_eq!(info.supports(42), Some(false));
        assert!(!info.auth_required && !info.is_grasp);
    }

    #[test]
    fn what_is_of_the_wrong_type_counts_as_absent() {
        let info = RelayInfo::from_json(
            r#"{"limitation":{"max_limit":"many","max_subscriptions":-3,"max_message_length":0,"auth_required":"yes"},
                "supported_nips":{"1":true},"supported_grasps":"GRASP-01","name":7}"#,
        )
        .unwrap();
        assert_eq!(info, RelayInfo::default());
        let info = RelayInfo::from_json(r#"{"limitation":[],"supported_nips":[1,"77",99999999,77]}"#).unwrap();
        assert_eq!(info.supported_nips, Some(vec![1, 77]));
    }

    #[test]
    fn a_grasp_says_so() {
        let info = RelayInfo::from_json(r#"{"supported_grasps":["GRASP-01","GRASP-02"]}"#).unwrap();
        assert!(info.is_grasp);
        assert!(!RelayInfo::from_json(r#"{"supported_grasps":[]}"#).unwrap().is_grasp);
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for text in ["", "null", "7", "[]", "<html></html>", "{\"limitation\":{}"] {
            assert!(RelayInfo::from_json(text).is_err(), "{text}");
        }
    }
}
