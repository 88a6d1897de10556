//! Parameters of a template: their defaults, and what the command line says instead.

use super::node::Node;
use super::value::Value;

/// A parameter's declaration, with the value it has in this check.
#[derive(Debug)]
pub(super) struct Parameter {
    name: String,
    /// Several values, separated by commas.
    is_list: bool,
    /// What the value only names: a parameter of Systems Manager.
    is_indirect: bool,
    value: Option<String>,
}

impl Parameter {
    /// Reads a declaration; `given` is the command line's value.
    ///
    /// # Errors
    /// The declaration does not allow that value.
    pub(super) fn read(name: &str, declaration: &Node, given: Option<&str>) -> Result<Self, String> {
        let text = |key: &str| declaration.get(key).and_then(|entry| entry.value.text());
        let kind = text("Type").unwrap_or("String");
        if let Some(given) = given {
            refuse(name, declaration, given)?;
        }
        let is_indirect = kind.starts_with("AWS::SSM::Parameter");
        Ok(Self {
            name: name.to_owned(),
            is_list: kind == "CommaDelimitedList" || kind.starts_with("List<"),
            // A value that is given is taken as what the name stands for.
            is_indirect: is_indirect && given.is_none(),
            value: given.or_else(|| text("Default")).map(str::to_owned),
        })
    }

    /// The values of a list; none for other parameters and where there is no value.
    pub(super) fn list(&self) -> Option<impl Iterator<Item = &str>> {
        let value = self.value.as_deref().filter(|_| self.is_list && !self.is_indirect)?;
        Some(value.split(',').map(str::trim))
    }

    /// The value of a parameter that is no list.
    pub(super) fn value(&self) -> Value {
        let name = &self.name;
        let why = match &self.value {
            Some(value) if !self.is_indirect => return Value::Text(value.clone()),
            Some(_) => {
                format!("parameter {name} names a value of Systems Manager; give it by --parameter {name}=VALUE")
            }
            None => format!("parameter {name} has no default; give it by --parameter {name}=VALUE"),
        };
        Value::Partial { text: format!("${{{name}}}"), why }
    }
}

/// Refuses a value that `CloudFormation` would refuse, as far as that takes no regular expression.
fn refuse(name: &str, declaration: &Node, given: &str) -> Result<(), String> {
    if let Some(allowed) = declaration.get("AllowedValues") {
        let allowed: Vec<&str> = allowed.value.items().iter().filter_map(|item| item.text()).collect();
        if !allowed.contains(&given) {
            return Err(format!("parameter {name}: expected one of {}; found {given}", allowed.join(", ")));
        }
    }
    let bound = |key: &str| declaration.get(key)?.value.text()?.parse::<f64>().ok();
    let Ok(number) = given.parse::<f64>() else { return Ok(()) };
    match (bound("MinValue"), bound("MaxValue")) {
        (Some(min), _) if number < min => Err(format!("parameter {name}: expected at least {min}, found {given}")),
        (_, Some(max)) if number > max => Err(format!("parameter {name}: expected at most {max}, found {given}")),
        _ => Ok(()),
    }
}
