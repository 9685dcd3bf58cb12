//! One JSON object with the answers of very many instances.

use super::chunked::JsonProducer;
use dropsonde_store::InstanceId;

/// Makes `{"id":…,…}`. `one` makes the answer of each instance; an instance without an answer is left out.
pub(super) fn by_instance(
    ids: Vec<InstanceId>,
    one: impl Fn(&InstanceId) -> Option<JsonProducer> + Send + 'static,
) -> JsonProducer {
    let (mut ids, mut open) = (ids.into_iter(), b'{');
    let mut current: Option<JsonProducer> = None;
    Box::new(move |json| {
        if let Some(more) = &mut current {
            if !more(json) {
                current = None;
            }
            return true;
        }
        let Some(id) = ids.next() else {
            // The object is empty.
            if open == b'{' {
                json.push(open);
            }
            json.push(b'}');
            return false;
        };
        current = one(&id);
        if current.is_some() {
            json.push(std::mem::replace(&mut open, b','));
            json.extend_from_slice(serde_json::Value::from(id.as_str()).to_string().as_bytes());
            json.push(b':');
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(ids: &[&str]) -> String {
        let ids = ids.iter().map(|id| InstanceId::new(*id).unwrap()).collect();
        let mut more = by_instance(ids, |id| {
            let mut left = id.as_str().len();
            let one = move |json: &mut Vec<u8>| {
                json.push(b'0' + left as u8);
                left -= 1;
                left > 0
            };
            (!id.as_str().starts_with('-')).then(|| Box::new(one) as JsonProducer)
        });
        let mut json = Vec::new();
        while more(&mut json) {}
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn instances_without_an_answer_are_left_out_of_the_object() {
        assert_eq!(made(&["a", "-", "bcd", "\"e"]), r#"{"a":1,"bcd":321,"\"e":21}"#);
        assert_eq!((made(&[]), made(&["-"])), ("{}".to_owned(), "{}".to_owned()));
    }
}
