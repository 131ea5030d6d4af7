//! Declaration of a block of keys: one list makes the struct, its table, the reader and the writer.

/// Declares keys that belong together, and the plan that they become.
///
/// ```text
/// keys! {
///     pub struct TeacherPlan in TEACHER = "teacher", "The model that is imitated." {
///         #[serde(skip)]
///         checkpoint: PathBuf = required(CHECKPOINT, "Hugging Face folder or `.gguf` file");
///         batch_size: usize = or("8", Kind::Integer(1, MAX_SIZE), "rows that the capture takes at a time");
///     }
/// }
/// ```
///
/// A row is a field with its type and
///
/// - `required(kind, about)`;
/// - `or(value, kind, about)`: a default, as one would write it;
/// - `rule(words, kind, about)`: a default described in words; the type is an option, or a function follows after `else`;
/// - `group(ROWS)`: a field of several keys: those of another `keys!` without a name, or of a [`Keys`](super::Keys) by hand, or
///   an option, read and written by two functions after `from` and `write`;
/// - `around()`: a key that the tables around this group define themselves, or omit;
/// - `beside(default)`: no key; the reader of the block fills it in.
///
/// `also ["lr"]` after the row lists names of the key in other programs, for the message about those. `as "key"` after the field is its name in recipes, if that differs; `else function` (of the [`Fields`](super::Fields)) gives
/// the value if the key is missing; `from function` reads it in either case; `unless`, with a function of the plan, omits the
/// key from written recipes where it would be refused. `key` in place of a field and its type makes a key that another field
/// reads; `write`, with a function of the plan, gives its value in written recipes.
macro_rules! keys {
    ($(#[$meta:meta])* $vis:vis struct $Name:ident in $TABLE:ident = $name:literal, $about:literal { $($rows:tt)* }) => {
        keys! { @rows (fields plan folder keys) ($Name $(#[$meta])* #[doc = $about] $vis struct $Name)
            ($TABLE $name $about) () () () () $($rows)* }
    };
    ($(#[$meta:meta])* $vis:vis struct $Name:ident in $TABLE:ident { $($rows:tt)* }) => {
        keys! { @rows (fields plan folder keys) ($Name $(#[$meta])* $vis struct $Name)
            ($TABLE) () () () () $($rows)* }
    };

    // One row at a time: its field, its row of the table, its reader, its writer.
    (@rows ($fields:ident $plan:ident $folder:ident $keys:ident) $head:tt $table:tt ($($field:tt)*) ($($row:tt)*) ($($read:tt)*) ($($write:tt)*)
        $(#[$meta:meta])* $it:ident: $Type:ty = group($ROWS:expr) from $from:ident write $written:ident; $($rest:tt)*) => {
        keys! { @rows ($fields $plan $folder $keys) $head $table
            ($($field)* $(#[$meta])* pub $it: $Type,)
            ($($row)* $crate::recipe::Row::Group($ROWS),)
            ($($read)* $it: $from($fields)?,)
            ($($write)* $written($plan.$it.as_ref(), $folder, $keys);)
            $($rest)* }
    };
    (@rows ($fields:ident $plan:ident $folder:ident $keys:ident) $head:tt $table:tt ($($field:tt)*) ($($row:tt)*) ($($read:tt)*) ($($write:tt)*)
        $(#[$meta:meta])* $it:ident: $Type:ty = group($ROWS:expr); $($rest:tt)*) => {
        keys! { @rows ($fields $plan $folder $keys) $head $table
            ($($field)* $(#[$meta])* pub $it: $Type,)
            ($($row)* $crate::recipe::Row::Group($ROWS),)
            ($($read)* $it: <$Type as $crate::recipe::Keys>::read_keys($fields)?,)
            ($($write)* $crate::recipe::Keys::write_keys(&$plan.$it, $folder, $keys);)
            $($rest)* }
    };
    (@rows ($fields:ident $plan:ident $folder:ident $keys:ident) $head:tt $table:tt ($($field:tt)*) $row:tt ($($read:tt)*) ($($write:tt)*)
        $(#[$meta:meta])* $it:ident: $Type:ty = around() $(unless $unless:expr)?; $($rest:tt)*) => {
        keys! { @rows ($fields $plan $folder $keys) $head $table
            ($($field)* $(#[$meta])* pub $it: $Type,)
            $row
            ($($read)* $it: $fields.get_or_default(stringify!($it))?,)
            ($($write)* if true $(&& !$crate::recipe::tell($plan, $unless))? {
                $crate::recipe::put($keys, stringify!($it), $crate::recipe::Value::write(&$plan.$it, $folder));
            })
            $($rest)* }
    };
    (@rows $names:tt $head:tt $table:tt ($($field:tt)*) $row:tt ($($read:tt)*) $write:tt
        $(#[$meta:meta])* $it:ident: $Type:ty = beside($default:expr); $($rest:tt)*) => {
        keys! { @rows $names $head $table
            ($($field)* $(#[$meta])* pub $it: $Type,) $row ($($read)* $it: $default,) $write $($rest)* }
    };
    (@rows ($fields:ident $plan:ident $folder:ident $keys:ident) $head:tt $table:tt $field:tt ($($row:tt)*) $read:tt ($($write:tt)*)
        key $it:ident = $how:ident($($what:tt)*) write $written:expr; $($rest:tt)*) => {
        keys! { @rows ($fields $plan $folder $keys) $head $table $field
            ($($row)* $crate::recipe::$how(stringify!($it), $($what)*),)
            $read
            ($($write)* $crate::recipe::put($keys, stringify!($it), $crate::recipe::tell($plan, $written));)
            $($rest)* }
    };
    (@rows $names:tt $head:tt $table:tt $field:tt $row:tt $read:tt $write:tt
        $(#[$meta:meta])* $it:ident $(as $key:literal)?: $Type:ty = required($kind:expr, $about:literal) $($rest:tt)*) => {
        keys! { @key $names $head $table $field $row $read $write
            ($(#[$meta])*) $it (stringify!($it) $(; $key)?) ($Type) (required(; $kind, $about)) $($rest)* }
    };
    (@rows $names:tt $head:tt $table:tt $field:tt $row:tt $read:tt $write:tt
        $(#[$meta:meta])* $it:ident $(as $key:literal)?: $Type:ty = $how:ident($words:literal, $kind:expr, $about:literal) $($rest:tt)*) => {
        keys! { @key $names $head $table $field $row $read $write
            ($(#[$meta])*) $it (stringify!($it) $(; $key)?) ($Type) ($how($words; $kind, $about)) $($rest)* }
    };
    (@key ($fields:ident $plan:ident $folder:ident $keys:ident) $head:tt $table:tt ($($field:tt)*) ($($row:tt)*) ($($read:tt)*) ($($write:tt)*)
        ($(#[$meta:meta])*) $it:ident ($own:expr $(; $key:literal)?) ($Type:ty) ($how:ident($($words:literal)?; $kind:expr, $about:literal))
        $(also $also:tt)? $(else $else:ident)? $(from $from:ident)? $(unless $unless:expr)?; $($rest:tt)*) => {
        keys! { @rows ($fields $plan $folder $keys) $head $table
            ($($field)* #[doc = $about] $(#[$meta])* $(#[serde(rename = $key)])? pub $it: $Type,)
            ($($row)* $crate::recipe::also($crate::recipe::$how(keys!(@first $($key)? $own), $($words,)? $kind, $about), &keys!(@also $($also)?)),)
            ($($read)* $it: keys!(@read $fields (keys!(@first $($key)? $own)) ($($else)?) ($($from)?))?,)
            ($($write)* if true $(&& !$crate::recipe::tell($plan, $unless))? {
                let value = $crate::recipe::Value::write(&$plan.$it, $folder);
                $crate::recipe::put($keys, keys!(@first $($key)? $own), $crate::recipe::or_word(&const { $kind }, value));
            })
            $($rest)* }
    };

    (@also) => { [] };
    (@also $also:tt) => { $also };

    (@first $key:literal $own:expr) => { $key };
    (@first $own:expr) => { $own };

    (@read $fields:ident ($key:expr) () ()) => { $fields.get($key) };
    (@read $fields:ident ($key:expr) ($else:ident) ()) => { $fields.get($key).or_else(|| $else($fields)) };
    (@read $fields:ident ($key:expr) () ($from:ident)) => { $from($fields) };

    // No row is left.
    (@rows ($fields:ident $plan:ident $folder:ident $keys:ident) ($Name:ident $($head:tt)*) $table:tt ($($field:tt)*) $rows:tt ($($read:tt)*) ($($write:tt)*)) => {
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        $($head)* {
            $($field)*
        }

        keys! { @table $table $rows }

        impl $crate::recipe::Keys for $Name {
            fn read_keys($fields: $crate::recipe::Fields<'_>) -> Option<Self> {
                Some(Self { $($read)* })
            }

            fn write_keys(
                &self,
                $folder: &std::path::Path,
                $keys: &mut serde_json::Map<String, serde_json::Value>,
            ) {
                let $plan = self;
                $($write)*
            }
        }
    };
    (@table ($TABLE:ident $name:literal $about:literal) ($($rows:tt)*)) => {
        pub(crate) static $TABLE: $crate::recipe::Block = $crate::recipe::Block {
            name: $name,
            about: $about,
            rows: &[$($rows)*],
        };
    };
    (@table ($TABLE:ident) ($($rows:tt)*)) => {
        pub(crate) static $TABLE: &[$crate::recipe::Row] = &[$($rows)*];
    };
}

/// Declares a choice: the enum of its variants, the enum of its words, and the table.
///
/// A variant without a type is written as a bare word. `..` names keys, with defaults, that may stand beside the variant; whoever
/// reads the choice reads them, too.
macro_rules! choice {
    ($(#[$meta:meta])* $vis:vis enum $Name:ident of $Word:ident in $TABLE:ident = $name:literal, $about:literal {
        $($(#[$told:meta])* $Variant:ident$(($(#[$inner:meta])* $Type:ty))? = $word:literal $(also $also:tt)?, $kind:expr, $means:literal;)+
        $(..$BESIDE:expr;)*
    }) => {
        $(#[$meta])*
        #[doc = $about]
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        $vis enum $Name {
            $(#[doc = $means] $(#[$told])* #[serde(rename = $word)] $Variant$(($(#[$inner])* $Type))?,)+
        }

        $crate::recipe::words! {
            #[doc = $about]
            pub(crate) enum $Word {
                $(#[doc = $means] $Variant = $word,)+
            }
        }

        impl $Name {
            /// Word of this variant.
            pub(crate) fn word(&self) -> $Word {
                match self {
                    $(Self::$Variant { .. } => $Word::$Variant,)+
                }
            }
        }

        pub(crate) static $TABLE: $crate::recipe::Block = $crate::recipe::Block {
            name: $name,
            about: $about,
            rows: &[$($crate::recipe::also($crate::recipe::required($word, $kind, $means), &choice!(@also $($also)?)),)+
                $($crate::recipe::Row::Group($BESIDE),)*],
        };

        impl $crate::recipe::Value for $Name {
            fn read(
                item: &$crate::recipe::Item,
                holder: $crate::recipe::Fields<'_>,
            ) -> Option<Self> {
                let chosen = holder.inside(item)?;
                Some(match chosen.variant::<$Word>()?.0 {
                    $($Word::$Variant => choice!(@read chosen $Variant $word $($Type)?),)+
                })
            }

            fn write(&self, folder: &std::path::Path) -> serde_json::Value {
                let word = self.word().word();
                choice!(@write self folder word $($Variant ($($Type)?))+)
            }
        }
    };
    (@also) => { [] };
    (@also $also:tt) => { $also };
    (@read $chosen:ident $Variant:ident $word:literal) => { Self::$Variant };
    (@read $chosen:ident $Variant:ident $word:literal $Type:ty) => { Self::$Variant($chosen.get($word)?) };
    (@write $self:ident $folder:ident $word:ident $($Variant:ident ($($Type:ty)?))+) => {
        match $self {
            $(choice!(@pattern chosen $Variant $($Type)?) => choice!(@value chosen $folder $word $($Type)?),)+
        }
    };
    (@pattern $value:ident $Variant:ident) => { Self::$Variant };
    (@pattern $value:ident $Variant:ident $Type:ty) => { Self::$Variant($value) };
    (@value $value:ident $folder:ident $word:ident) => { serde_json::json!($word) };
    (@value $value:ident $folder:ident $word:ident $Type:ty) => {
        serde_json::json!({ $word: $crate::recipe::Value::write($value, $folder) })
    };
}

pub(crate) use {choice, keys};
