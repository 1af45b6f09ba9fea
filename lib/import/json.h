/* json.h - JSON of files that nobody vouches for: jansson with bounds, and sentences that name the file and the key.
 * Duplicate keys, more than 64 levels, and more than the bytes allowed are refused. */
#ifndef MFI_JSON_H
#define MFI_JSON_H

#include <jansson.h>
#include <stdbool.h>

#include "matformer.h"

/* `name` is the file's, for messages; it must outlive what reads from the object. */
typedef struct mfi_json {
    const char *name;
    json_t *root; /* an object */
} mfi_json;

/* Reads a file of at most `max_bytes`. What is no object at the top is refused. */
mf_status mfi_json_load(mfi_json *out, const char *path, size_t max_bytes, mf_error *error);
/* The same from memory. */
mf_status mfi_json_parse(mfi_json *out, const char *name, const char *text, size_t bytes, mf_error *error);
void mfi_json_free(mfi_json *json);

/* Values of `object` by key. `where` is what the message calls the object ("config.json", "config.json: text_config").
 * A value that is there and of another type or outside the bounds fails; one that is absent or null fails too, or with
 * the functions called _or becomes `none`. Integral floats are integers (8.0 is 8). */
typedef struct mfi_json_reader {
    const char *where;
    const json_t *object;
    mf_error *error;
    mf_status status; /* the first failure; after it nothing is read */
} mfi_json_reader;
uint32_t mfi_json_u32(mfi_json_reader *reader, const char *key, uint32_t least, uint32_t most);
uint32_t mfi_json_u32_or(mfi_json_reader *reader, const char *key, uint32_t least, uint32_t most, uint32_t none);
double mfi_json_f64(mfi_json_reader *reader, const char *key);
double mfi_json_f64_or(mfi_json_reader *reader, const char *key, double none);
bool mfi_json_bool_or(mfi_json_reader *reader, const char *key, bool none);
const char *mfi_json_text_or(mfi_json_reader *reader, const char *key, const char *none);
/* NULL where the key is absent or null; another type than the wanted one fails. */
const json_t *mfi_json_object(mfi_json_reader *reader, const char *key);
const json_t *mfi_json_array(mfi_json_reader *reader, const char *key);

#endif
