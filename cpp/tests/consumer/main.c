/* Header and library are of one version. */
#include <autosam.h>
#include <stdio.h>

int main(void) {
  printf("%s\n", autosam_version());
  return autosam_abi_version() == AUTOSAM_ABI_VERSION ? 0 : 1;
}
