#include "export.h"
#include "status.h"
mf_status mfi_export_gguf(mfi_exporter *x)
{
    return mfi_fail(x->error, MF_E_UNSUPPORTED, "%s: not yet", x->path);
}
