"""What heads are compared with in the label-efficiency study: U-Nets without a frozen encoder."""
