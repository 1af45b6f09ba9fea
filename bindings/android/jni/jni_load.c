/* jni_load.c - registers the native methods. They are not exported: JNI_OnLoad is the library's one symbol. */
#include <jni.h>
#include <stdint.h>

#include "matformer.h"
#include "org_libmatformer_Native.h"

JNIEXPORT jint JNICALL JNI_OnLoad(JavaVM *vm, void *reserved);

JNIEXPORT jint JNICALL JNI_OnLoad(JavaVM *vm, void *reserved)
{
    /* The header of old virtual machines has these as plain char pointers. */
#define MFJ_NATIVE(name, signature) \
    { (char *)(uintptr_t) #name, (char *)(uintptr_t)signature, (void *)(uintptr_t)Java_org_libmatformer_Native_##name },
    const JNINativeMethod natives[] = {
#include "natives.inc"
    };
#undef MFJ_NATIVE
    JNIEnv *env;
    (void)reserved;
    if ((*vm)->GetEnv(vm, (void **)&env, JNI_VERSION_1_6) != JNI_OK) return JNI_ERR;
    const jclass type = (*env)->FindClass(env, "org/libmatformer/Native");
    if (type == NULL) return JNI_ERR;
    if ((*env)->RegisterNatives(env, type, natives, (jint)(sizeof natives / sizeof *natives)) != JNI_OK) return JNI_ERR;
    return JNI_VERSION_1_6;
}

JNIEXPORT jint JNICALL Java_org_libmatformer_Native_version(JNIEnv *env, jclass type)
{
    (void)env;
    (void)type;
    return (jint)mf_version();
}
