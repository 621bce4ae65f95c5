"""What a tagging run decides and does, without Ray: plan, selection, chunk work, histories, report."""
